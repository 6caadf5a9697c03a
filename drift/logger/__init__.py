"""Loggers: where the metrics of a run go, step by step and iteration by iteration."""
