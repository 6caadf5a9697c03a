"""An example as loggers get it."""

from typing import Any

from drift.records import Example


def as_row(example: Example) -> dict[str, Any]:
    """An example as a row of a logger's table; the replies of a side one after another."""
    good, bad = ("\n".join(reply.text for reply in example.side(side)) for side in (True, False))
    return {"prompt": list(example.prompt), "feedback": example.feedback, "good": good, "bad": bad}
