"""Languages that the miner can't read: it knows English complaints and praise only. Such conversations are counted by language."""

from collections import Counter
from collections.abc import Sequence

from drift.intake.language import told

UNREAD = "conversations that the miner can't read (it reads English), in "
READ = 300  # characters of a turn, and twice as many of all turns


def count_unread(turns: Sequence[Sequence[str]], counts: Counter[str]) -> None:
    """`turns`: by conversation, what its user said after a reply. Adds to `counts` the conversations that are not in English."""
    for texts in turns:
        said = "\n".join(text[:READ] for text in texts)
        if said and (code := told(said[: 2 * READ])) not in ("en", None):
            counts[f"{UNREAD}{code}"] += 1
