"""Miners classify what users thought of replies from their next turn: rules, a small classifier, an LLM for uncertain turns."""
