"""The HTML report, its tables and plots, and the last lines on the console."""
