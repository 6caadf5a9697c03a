"""Judges, which score replies so that a method can rank them (contract: drift/parts.py)."""
