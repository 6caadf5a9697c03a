"""Methods: each makes examples from records and fresh replies, and does nothing else."""
