"""Evaluations of a policy: deployment (known truth, so utility can be measured) and heldout (real logs, where it can't).

A run has a list of them (contract: drift/parts.py). stage.py runs one and adds what replies.py measures on its fresh replies. The
result is a `scores.json`: {"headline": name, "metrics": {name: {"value", "per_item": {item: value} or null, "digits"}},
"conversations": {item: conversation}}. Reports read this file and don't depend on the evaluation.
"""
