"""What turns fresh and logged replies into training examples: guidance and filters, the same for every method."""
