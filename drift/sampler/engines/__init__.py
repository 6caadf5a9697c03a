"""Programs that run in a process, and perhaps an environment, of their own: they import nothing of this package."""
