"""Evaluations of a policy: deployment (known truth, so utility can be measured), heldout (real logs, where it can't), and
benchmarks, whose replies a program checks (instructions.py) or a judge scores (judged.py).

A run has a list of them (contract: drift/parts.py). stage.py runs one and adds what replies.py measures on its fresh replies. The
result is a `scores.json`: {"headline": name, "metrics": {name: {"value", "per_item": {item: value} or null, "digits"}},
"conversations": {item: conversation}}. Reports read this file and don't depend on the evaluation.
"""

BENCHMARKS = ("ifeval", "ifbench", "mtbench", "alpacaeval", "arena_hard", "wildbench", "wildbench_reward")  # by their option's name
