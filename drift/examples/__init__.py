"""Guidance and filters: how fresh and logged replies become training examples, the same for every method."""
