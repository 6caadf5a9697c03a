"""Decoding on processors: attention without padding and products of few rows."""
