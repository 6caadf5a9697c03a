"""What users thought of replies, read off their next turn: rules, a small classifier, a language model for what stays uncertain."""
