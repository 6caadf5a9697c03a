"""Losses, one file each. The loss of an optimiser step is the weighted sum of the chosen ones.

The official DRIFT configuration is DPO + a * NLL, which is also what `rpo_alpha` means in TRL >= 0.10 (in older versions it meant
NLL + a * DPO). A new loss needs one file and one yaml: see `Objective` in drift/parts.py.
"""
