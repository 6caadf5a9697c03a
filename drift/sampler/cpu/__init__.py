"""Faster decoding on a CPU: attention without padding, and matrix products with few rows."""
