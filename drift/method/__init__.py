"""Methods: each makes preference pairs out of records and fresh replies, and does nothing else."""
