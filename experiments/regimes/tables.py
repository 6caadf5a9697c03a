"""The tables of the study, from the kept runs: `python experiments/regimes/study.py --show`."""

from collections.abc import Sequence
from statistics import stdev
from typing import Any

from figures import PERPLEXITY, gain, gains, gaps, held
from settings import ARMS, CHOICES, OLD, PRIMARY, REGIMES, RIVALS, TEST_SEEDS

from drift.console import say, table
from drift.statistics import Interval, holm, over_seeds, t_test

OF_AN_OLD_LOG = {"utility": ".2f", "words": ".0f", "distinct-2": ".2f", PERPLEXITY: ".1f"}


def show(known: Sequence[dict[str, Any]]) -> None:
    tuning = [
        {"arm": arm, "configuration": " ".join(config), "gains": ", ".join(f"{one:+.3f}" for one in found.values()),
         "mean": f"{sum(found.values()) / len(found):+.3f}"}
        for arm in ARMS
        for config in CHOICES[arm]
        if (found := gains(known, "tune", arm, config))
    ]  # fmt: skip
    if tuning:
        say("\ntune: gain in utility on validation topics")
        table(tuning)
    for phase in REGIMES:
        rows = [line(known, phase, arm) for arm in ARMS if gains(known, phase, arm)]
        if rows:
            say(f"\n{phase}: {log_of(known, phase)}")
            table(rows)
            by_round(known, phase)
            comparisons(known, phase)
    contrast(known)
    old_log(known)


def line(known: Sequence[dict[str, Any]], phase: str, arm: str) -> dict[str, str]:
    rows = [row for row in known if (row["phase"], row["arm"]) == (phase, arm)]
    values = sorted(gains(known, phase, arm).items())
    shown = {"arm": arm, "seeds": str(len(rows)), "gain": interval([value for _, value in values])}
    for metric in ("request met", "on topic", "words", "missing ends"):
        shown[metric] = f"{sum(gain(row, metric) for row in rows) / len(rows):+.2f}"
    return shown | {"by seed": ", ".join(f"{value:+.3f}" for _, value in values)}


def by_round(known: Sequence[dict[str, Any]], phase: str) -> None:
    """Where there are several rounds: mean utility after each."""
    lines = []
    for arm in ARMS:
        rows = [row for row in known if (row["phase"], row["arm"]) == (phase, arm)]
        if rows and len(rows[0]["points"]) > 2:
            means = {name: sum(row["points"][name]["utility"] for row in rows) / len(rows) for name in rows[0]["points"]}
            lines.append({"utility": arm} | {name: f"{mean:.3f}" for name, mean in means.items()})
    if lines:
        table(lines)


def interval(values: Sequence[float]) -> str:
    return shown(over_seeds(values), digits=3)


def shown(found: Interval, *, digits: int) -> str:
    """The mean with its interval, if there is one: +0.145 [+0.115, +0.175]."""
    values = [f"{value:+.{digits}f}" for value in (found.mean, found.low, found.high) if value is not None]
    return values[0] if found.low is None else f"{values[0]} [{values[1]}, {values[2]}]"


def log_of(known: Sequence[dict[str, Any]], phase: str) -> str:
    rows = [row for row in known if row["phase"] == phase]
    start = sum(row["points"]["start"]["utility"] for row in rows) / len(rows)
    sat, dsat = (sum(row["log"].get(name, 0) for row in rows) / len(rows) for name in ("SAT", "DSAT"))
    return f"start {start:.3f}, {sat:.0f} SAT and {dsat:.0f} DSAT a log on average"


def comparisons(known: Sequence[dict[str, Any]], phase: str) -> None:
    """Of the primary arm with every other; p by Holm within its three rivals."""
    found = {arm: gaps(known, phase, PRIMARY, arm, TEST_SEEDS) for arm in ARMS if arm != PRIMARY}
    rivals = [arm for arm in RIVALS if len(found[arm]) > 1]
    corrected = dict(zip(rivals, holm([t_test(found[arm]) for arm in rivals]), strict=True))
    lines = [
        {"difference": f"{PRIMARY} - {arm}", "mean": interval(values), "SD": f"{stdev(values):.3f}",
         "p (Holm of three)": f"{corrected[arm]:.3f}" if arm in corrected else "-"}
        for arm, values in found.items()
        if len(values) > 1
    ]  # fmt: skip
    if lines:
        table(lines)


def contrast(known: Sequence[dict[str, Any]]) -> None:
    """(primary - rival in R1) - (the same in R0), paired by seed: is it the scarcity?"""
    lines = []
    for rival in RIVALS:
        seeds = [
            seed for seed in TEST_SEEDS
            if all(seed in gains(known, phase, arm) for phase in ("R1", "R0") for arm in (PRIMARY, rival))
        ]  # fmt: skip
        if len(seeds) > 1:
            scarce, plenty = (gaps(known, phase, PRIMARY, rival, seeds) for phase in ("R1", "R0"))
            values = [one - other for one, other in zip(scarce, plenty, strict=True)]
            lines.append({"contrast": f"{PRIMARY} - {rival}, R1 - R0", "mean": interval(values), "seeds": str(len(seeds))})
    if lines:
        say("")
        table(lines)


def old_log(known: Sequence[dict[str, Any]]) -> None:
    """Utility after each of five iterations from one log, by seed."""
    lines = [
        {"setting": arm, "seed": str(row["seed"]), "holds": "yes" if held(row) else "no"}
        | {
            name.removeprefix("iteration "): ", ".join(f"{point[metric]:{form}}" for metric, form in OF_AN_OLD_LOG.items())
            for name, point in row["points"].items()
        }
        for arm in OLD
        for row in known
        if (row["phase"], row["arm"]) == ("old", arm)
    ]
    if lines:
        say(f"\nold: {', '.join(OF_AN_OLD_LOG)} after each iteration from one log, validation topics")
        table(lines)
