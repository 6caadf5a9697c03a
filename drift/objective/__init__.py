"""Losses, one file each. An optimiser step's loss is the weighted sum of those that are chosen.

The official DRIFT configuration is DPO + a * NLL, the form that `rpo_alpha` means in TRL >= 0.10 (before, it was NLL + a * DPO: not
copied). A loss from elsewhere needs one file and one yaml: see `Objective` in drift/parts.py.
"""
