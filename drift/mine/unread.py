"""Counts conversations by languages that the miner can't read: it recognises complaints and praise in English only."""

from collections import Counter
from collections.abc import Sequence

from drift.intake.language import detect_language

UNREAD = "conversations that the miner can't read (it reads English), in "
READ = 300  # characters used of each turn, and twice as many of all turns together


def count_unread(turns: Sequence[Sequence[str]], counts: Counter[str]) -> None:
    """Adds to `counts` the conversations that are not in English. `turns`: for each conversation, the user turns after replies."""
    for texts in turns:
        text = "\n".join(turn[:READ] for turn in texts)
        if text and (code := detect_language(text[: 2 * READ])) not in ("en", None):
            counts[f"{UNREAD}{code}"] += 1
