"""`drift explore`: how much of the high-reward region of all replies each method's policy reaches (docs/explore.md)."""
