"""Log-probabilities of replies: how sequences are laid out, planned and computed, for reference, training and evaluations."""
