"""The data card: what the records are that a page or a run rests on, who says so, and how often that is right."""

from collections import Counter
from collections.abc import Sequence

from drift.mine import classifier, rules
from drift.records import Record

MEASURED = (
    "Precision: how many of them are right among 600 held-out turns of ShareGPT, with 95% intervals, at the shipped thresholds "
    "(experiments/miner). Other logs may differ: read some."
)


def card(records: Sequence[Record]) -> list[tuple[str, list[dict[str, str]]]]:
    """What a report says of the records that it rests on: (heading, table)."""
    return [("Labels and categories", categories(records)), ("Who says so, and how often that is right", detectors(records))]


def share(count: int, records: Sequence[Record]) -> str:
    return f"{count} ({count / len(records):.0%})"


def kind_of(record: Record) -> tuple[str, str]:
    return record.label.upper(), (record.provenance or {}).get("category") or "-"


def categories(records: Sequence[Record]) -> list[dict[str, str]]:
    found = Counter(map(kind_of, records))
    return [{"label": label, "category": kind, "records": share(count, records)} for (label, kind), count in found.most_common()]


def detectors(records: Sequence[Record]) -> list[dict[str, str]]:
    groups: dict[tuple[str, str], list[float]] = {}
    for record in records:
        provenance = record.provenance or {}
        groups.setdefault((provenance.get("detector", "-"), record.label), []).append(provenance.get("confidence", 1.0))
    return [
        {
            "detector": name,
            "label": label.upper(),
            "records": share(len(sure), records),
            "mean confidence": f"{sum(sure) / len(sure):.2f}",
            "precision": precision(name, label, min(sure)),
        }
        for (name, label), sure in sorted(groups.items())
    ]


def precision(detector: str, label: str, least: float) -> str:
    if detector == "rules":
        return rules.MEASURED[label]
    if detector == "classifier" and least >= classifier.MEASURED_FROM[label]:
        return classifier.MEASURED[label]
    return "not measured" if detector in ("classifier", "judge") else "as the source's"
