"""What people look at: console, statistics, tables, plots, the HTML report."""
