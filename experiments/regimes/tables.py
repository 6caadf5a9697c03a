"""The tables of study.py, from the kept runs: `python experiments/regimes/study.py --show`."""

from collections.abc import Sequence
from typing import Any

from drift.console import say, table
from drift.statistics import holm, over_seeds, t_test


def show(known: Sequence[dict[str, Any]]) -> None:
    import study

    tuning = [
        {"arm": arm, "configuration": " ".join(config), "gains": ", ".join(f"{one:+.3f}" for one in found.values()),
         "mean": f"{sum(found.values()) / len(found):+.3f}"}
        for arm in study.ARMS
        for config in study.CHOICES[arm]
        if (found := study.gains(known, "tune", arm, config))
    ]  # fmt: skip
    if tuning:
        say("\ntune: gain in utility on validation topics")
        table(tuning)
    for phase in study.REGIMES:
        rows = [line(known, phase, arm) for arm in study.ARMS if study.gains(known, phase, arm)]
        if rows:
            say(f"\n{phase}: {log_of(known, phase)}")
            table(rows)
            comparisons(known, phase)
    contrast(known)


def line(known: Sequence[dict[str, Any]], phase: str, arm: str) -> dict[str, str]:
    import study

    rows = [row for row in known if (row["phase"], row["arm"]) == (phase, arm)]
    values = sorted(study.gains(known, phase, arm).items())
    shown = {"arm": arm, "seeds": str(len(rows)), "gain": interval([gain for _, gain in values])}
    for metric in ("request met", "on topic", "words", "missing ends"):
        shown[metric] = f"{sum(study.gain(row, metric) for row in rows) / len(rows):+.2f}"
    return shown | {"by seed": ", ".join(f"{gain:+.3f}" for _, gain in values)}


def interval(values: Sequence[float]) -> str:
    found = over_seeds(values)
    return f"{found.mean:+.3f}" + (f" [{found.low:+.3f}, {found.high:+.3f}]" if found.low is not None else "")


def log_of(known: Sequence[dict[str, Any]], phase: str) -> str:
    rows = [row for row in known if row["phase"] == phase]
    start = sum(row["points"]["start"]["utility"] for row in rows) / len(rows)
    sat, dsat = (sum(row["log"].get(name, 0) for row in rows) / len(rows) for name in ("SAT", "DSAT"))
    return f"start {start:.3f}, {sat:.0f} SAT and {dsat:.0f} DSAT a log on average"


def comparisons(known: Sequence[dict[str, Any]], phase: str) -> None:
    """Of the primary arm with every other; p by Holm within its three rivals."""
    import study

    found = {arm: study.gaps(known, phase, study.PRIMARY, arm, study.TEST_SEEDS) for arm in study.ARMS if arm != study.PRIMARY}
    rivals = [arm for arm in study.RIVALS if len(found[arm]) > 1]
    corrected = dict(zip(rivals, holm([t_test(found[arm]) for arm in rivals]), strict=True))
    lines = [
        {"difference": f"{study.PRIMARY} - {arm}", "mean": interval(values), "SD": f"{study.spread(values):.3f}",
         "p (Holm of three)": f"{corrected[arm]:.3f}" if arm in corrected else "-"}
        for arm, values in found.items()
        if len(values) > 1
    ]  # fmt: skip
    if lines:
        table(lines)


def contrast(known: Sequence[dict[str, Any]]) -> None:
    """(primary - rival in R1) - (the same in R0), paired by seed: is it the scarcity?"""
    import study

    lines = []
    for rival in study.RIVALS:
        seeds = [
            seed for seed in study.TEST_SEEDS
            if all(seed in study.gains(known, phase, arm) for phase in ("R1", "R0") for arm in (study.PRIMARY, rival))
        ]  # fmt: skip
        if len(seeds) > 1:
            scarce, plenty = (study.gaps(known, phase, study.PRIMARY, rival, seeds) for phase in ("R1", "R0"))
            values = [one - other for one, other in zip(scarce, plenty, strict=True)]
            lines.append({"contrast": f"{study.PRIMARY} - {rival}, R1 - R0", "mean": interval(values), "seeds": str(len(seeds))})
    if lines:
        say("")
        table(lines)
