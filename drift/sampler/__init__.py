"""Draws fresh replies from a policy: every reply has its own seed, and replies are drawn in groups."""
