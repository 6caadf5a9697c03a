"""The data card: what the records of a page or a run are, where their labels come from, and their measured precision."""

from collections import Counter
from collections.abc import Sequence

from drift.mine import classifier, rules
from drift.records import Record

MEASURED = (
    "The precision was not measured on your log. It is the share of right labels among 600 held-out turns of ShareGPT, with 95% "
    "intervals, at the shipped thresholds (experiments/miner). A language model labelled those turns, and cross-validation put the "
    "classifier's DSAT precision at .78, so it may be lower. Other logs may differ: read some records."
)


def card(records: Sequence[Record]) -> list[tuple[str, list[dict[str, str]], str]]:
    """What a report says about its records: (heading, table, note)."""
    return [
        ("Labels and categories", categories(records), ""),
        ("Where the labels come from, and their measured precision", detectors(records), MEASURED),
    ]


def share(count: int, records: Sequence[Record]) -> str:
    return f"{count} ({count / len(records):.0%})"


def kind_of(record: Record) -> tuple[str, str]:
    return record.label.upper(), (record.provenance or {}).get("category") or "-"


def categories(records: Sequence[Record]) -> list[dict[str, str]]:
    found = Counter(map(kind_of, records))
    return [{"label": label, "category": kind, "records": share(count, records)} for (label, kind), count in found.most_common()]


def detectors(records: Sequence[Record]) -> list[dict[str, str]]:
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        groups.setdefault(((record.provenance or {}).get("detector", "-"), record.label), []).append(record)
    return [
        {
            "detector": name,
            "label": label.upper(),
            "records": share(len(group), records),
            "mean confidence": f"{sum(map(confidence, group)) / len(group):.2f}",
            "precision on ShareGPT": precision(name, label, group),
        }
        for (name, label), group in sorted(groups.items())
    ]


def confidence(record: Record) -> float:
    return (record.provenance or {}).get("confidence", 1.0)


def precision(detector: str, label: str, records: Sequence[Record]) -> str:
    plain = [record for record in records if (record.provenance or {}).get("label") == label]  # "both" has the lower of two
    if detector == "rules":
        return rules.MEASURED[label]
    if detector == "classifier" and min(map(confidence, plain), default=1.0) >= classifier.MEASURED_FROM[label]:
        return classifier.MEASURED[label]
    return "not measured" if detector in ("classifier", "judge") else "as the source's"
