"""What is measured on a policy: deployment (known truth, utility), heldout (real logs, no utility claimed).

A run has a list of them (contract: drift/parts.py); stage.py runs one, and adds what replies.py measures on fresh replies. Each
becomes a `scores.json`: {"headline": name, "metrics": {name: {"value", "per_item": {item: value} or null, "digits"}},
"conversations": {item: conversation}}; reports read that and know no evaluation by name.
"""
