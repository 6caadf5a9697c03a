"""What scores replies, for whoever ranks them (contract: drift/parts.py)."""
