"""Log-probabilities of replies for the reference, training and evaluations: how sequences are planned, laid out and computed."""
