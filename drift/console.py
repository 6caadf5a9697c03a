"""Console output: progress with rate and time left, as a bar on a terminal, elsewhere as a line every few seconds."""

import re
import sys
import time
from typing import Any, ClassVar

from drift import stop
from drift.masking import mask

LINE_EVERY_SECONDS = 15.0
ACTS = re.compile(  # control characters except tab, line separators, direction overrides, surrogates
    "[\\x00-\\x08\\x0a-\\x1f\\x7f-\\x9f\\u2028-\\u202e\\u2066-\\u2069\\ud800-\\udfff]"
)


class Progress:
    """`with Progress(label, total, unit) as p: ... p.advance(n)`. `total` may turn out to be too high. `begun`: how much an
    earlier process has done. `saved`: how much the next process will find, if known. Progress inside another Progress is shown as
    lines, because a terminal has room for one bar."""

    outermost: ClassVar["Progress | None"] = None  # the one with the bar

    def __init__(self, label: str, total: int, unit: str, begun: int = 0) -> None:
        self.label, self.total, self.unit = label, total, unit
        self.begun, self.done, self.started = begun, float(begun), time.monotonic()
        self.saved: int | None = None
        self.said = self.started
        self.bar: Any = None
        self.note = ""  # shown beside the rate

    def __enter__(self) -> "Progress":
        if sys.stdout.isatty() and Progress.outermost is None:
            Progress.outermost = self
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = (
                TextColumn("{task.description:<34}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
            )
            self.bar = Bar(*columns, TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), transient=True)
            self.bar.start()
            self.task = self.bar.add_task(self.label, total=self.total, completed=self.begun, rate="")
        return self

    def __exit__(self, *error: Any) -> None:
        if self.bar is not None:
            Progress.outermost = None
            self.bar.stop()
        if isinstance(error[1], SystemExit):
            saved = f", of which {self.saved} are saved" if self.saved is not None else ""
            say(f"  {self.label}: stopped at {self.done:.0f} of {self.total} {self.unit}{saved}")
        seconds = time.monotonic() - self.started
        if seconds > 2 and error[0] is None:  # results from the store are not worth a line
            say(f"  {self.label}: {self.done - self.begun:.0f} {self.unit} in {seconds:.0f} s ({self._rate()})")

    def advance(self, count: float, note: str = "") -> None:
        self.note = note
        self.reach(self.done + count)

    def reach(self, done: float) -> None:
        """Sets how much is done; fractions of an item count, so that long items show progress too. Raises Stopped after a
        signal."""
        stop.check()
        self.done = done
        now = time.monotonic()
        if self.bar is not None:
            self.bar.update(self.task, completed=round(self.done), rate=self._rate())
        elif now - self.said > LINE_EVERY_SECONDS and self.begun < self.done < self.total:
            self.said = now
            left = (self.total - self.done) * (now - self.started) / (self.done - self.begun)
            say(f"  {self.label}: {self.done:.0f}/{self.total} {self.unit}, {self._rate()}, about {left:.0f} s left")

    def _rate(self) -> str:
        rate = f"{(self.done - self.begun) / max(time.monotonic() - self.started, 1e-9):.1f} {self.unit}/s"
        return f"{rate}, {self.note}" if self.note else rate


def table(rows: list[dict[str, str]]) -> None:
    """Prints rows with the same keys as aligned columns."""
    rows = [{visible(name, breaks=False): visible(value, breaks=False) for name, value in row.items()} for row in rows]
    widths = {name: max(len(name), *(len(row[name]) for row in rows)) for name in rows[0]}
    for row in [{name: name for name in widths}, *rows]:
        say("  " + "  ".join(row[name].ljust(width) for name, width in widths.items()).rstrip())


def say(text: str) -> None:
    print(visible(mask(text)), flush=True)


def visible(text: str, *, breaks: bool = True) -> str:
    """Text of whatever origin as a terminal may have it: what would move its cursor, change its colours or title, or turn the
    direction of writing stands there by its number (\\x1b), and so do characters that its encoding lacks. `breaks`: keep line
    breaks."""
    safe = ACTS.sub(lambda found: found[0] if breaks and found[0] == "\n" else ascii(found[0])[1:-1], text)
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return safe.encode(encoding, "backslashreplace").decode(encoding)
