"""What is measured on a policy: deployment (known truth, utility), heldout (real logs, no utility claimed).

Each writes `scores.json`: {"headline": name, "metrics": {name: {"value", "per_item": {item: value} or null, "digits"}}}; reports
read that and know no evaluation by name.
"""
