"""What scores replies for methods that rank their own samples."""
