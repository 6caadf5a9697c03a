"""`drift signal`: what the examples of every method tell a policy to first order, measured on gradients before any training."""
