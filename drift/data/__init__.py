"""Where records come from: a simulated deployment (deployment), or one file per format of log."""
