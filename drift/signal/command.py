"""`drift signal`: the table on the console, and signal.json."""

import textwrap
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from drift.console import say, table
from drift.masking import masked
from drift.records import write_json
from drift.signal.choice import runs_of
from drift.signal.measure import measure
from drift.store import used_together

WIDTH = 110
COLUMNS = {  # number of signal.json -> (its column, its format, what it says)
    "examples": ("examples", "d", "examples that the method makes for one iteration"),
    "records": ("records", "d", "different records that they are made from; examples of one record repeat each other"),
    "noise": ("noise", ".1f", "distance of one example's gradient from the mean, root mean square (its square is the variance)"),
    "agreement": ("agreement", ".2f", "norm of the mean gradient over what unrelated gradients would give; 1 is chance"),
    "cosine": ("cosine", ".3f", "mean cosine of the gradients of two examples of different records; 0 is chance"),
    "shorter": ("shorter", ".2f", "mean gradient along 'shorter fresh replies over longer ones' (same unit as noise and signal)"),
    "shorter_cosine": ("its cosine", ".2f", "cosine of the two as measured; noise pulls it to 0"),
    "signal": ("signal", ".2f", "mean gradient along 'good fresh replies over bad ones' of other prompts"),
    "signal_error": ("+-", ".2f", "standard error of the signal over records"),
    "predicted": ("predicted", ".2f", "signal by theory, from p, a, b and the shares of wrong labels"),
    "snr": ("SNR", ".2f", "signal over the noise of the mean of these examples"),
}
CAVEAT = (
    "What this can say: how much of what a method's examples pull at is common to them, how much is noise, and, where the truth is "
    "known, how much of it is useful. It ranks the signal of examples at the start of training. What it cannot say: which method "
    "gains most. Rate, anchors, clipping and everything after the first step are left out, and a mean that agrees with itself may "
    "still be a wrong direction, such as mere brevity."
)


def signal(overrides: Sequence[str], out: Path | None, *, num_prompts: int, num_replies: int, num_splits: int) -> None:
    """Measures, prints the table, and writes `out`/signal.json. `overrides`: as in `drift run`; see choice.py."""
    runs, refused = runs_of(overrides)
    folder = out or Path("outputs/signal") / f"{datetime.now():%Y-%m-%d_%H-%M-%S}"
    users = used_together([run.store for run in runs.values()], folder)
    found = measure(runs, num_prompts=num_prompts, num_replies=num_replies, num_splits=num_splits)
    found["methods"] |= {name: {"lacks": sentence} for name, sentence in refused.items()}
    found["settings"] = list(masked(dict(enumerate(overrides))).values())
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "signal.json", found)
    for user in users:
        user.end(finished=True)
    for line in lines(found):
        say(textwrap.fill(line, WIDTH, subsequent_indent="  "))
    show(found["methods"])
    say(f"\n{textwrap.fill(CAVEAT, WIDTH)}\nNumbers: {folder / 'signal.json'}")


def lines(found: Mapping[str, Any]) -> list[str]:
    """Sentences on what all methods have in common."""
    log, fresh, kept = found["log"], found["fresh"], found["projection"]
    labels = ", ".join(f"{count} {label.upper()}" for label, count in log.items() if label != "records")
    made = [
        f"{log['records']} records ({labels}); directions from {fresh['prompts']} prompts with {fresh['replies_per_prompt']} fresh "
        f"replies each, {fresh['splits']} random halves.",
        f"Gradients of {kept['replies']} replies by {kept['weights']} weights, kept as {kept['numbers']} numbers: norms are off by "
        f"{kept['norm_error']:.1%}.",
    ]
    if known := found.get("truth"):
        wrong = "; ".join(f"{share:.0%} of the {label.upper()} are wrong" for label, share in known["wrong_share_of_label"].items())
        values = ", ".join(f"{name} {shown(known[key], '.2f')}" for name, key in NAMED.items())
        made.append(f"Truth: {values}; {wrong}.")
    return made


NAMED = {
    "success of fresh replies p": "p", "E[p(1-p)]": "spread", "a": "a", "b": "b", "good-over-bad gradient": "contrast",
    "its cosine with shorter replies": "shorter",
}  # fmt: skip


def show(rows: Mapping[str, Mapping[str, Any]]) -> None:
    """The table, what its columns mean, and the methods without numbers."""
    measured = {name: row for name, row in rows.items() if "lacks" not in row}
    there = [key for key in COLUMNS if any(key in row for row in measured.values())]
    if measured:
        say("")
        table([
            {"method": name} | {COLUMNS[key][0]: shown(row.get(key), COLUMNS[key][1]) for key in there}
            for name, row in measured.items()
        ])  # fmt: skip
        say("")
    for key in there:
        say(f"  {COLUMNS[key][0]}: {COLUMNS[key][2]}")
    for name, row in rows.items():
        if "lacks" in row:
            say(textwrap.fill(f"{name} is not measured: {row['lacks']}", WIDTH, initial_indent="  ", subsequent_indent="    "))


def shown(value: float | None, how: str) -> str:
    return "-" if value is None else format(value, how)
