"""Benchmarks whose replies a judge scores: prompts, questions to the judge, reading of its answers, scores. One file each."""
