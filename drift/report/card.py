"""The data card: the labels and categories of records, where the labels come from, and their measured precision."""

from collections import Counter
from collections.abc import Sequence

from drift.mine import classifier, rules
from drift.records import Record

MEASURED = (
    "The precision was not measured on your log: it is the share of correct labels among 600 held-out turns of ShareGPT, with 95% "
    "intervals, at the shipped thresholds (experiments/miner). The true one may be lower: those turns were labelled by a language "
    "model, and cross-validation put the classifier's DSAT precision at .78. Your log may differ, so read some of its records."
)


def card(records: Sequence[Record]) -> list[tuple[str, list[dict[str, str]], str]]:
    """The tables about the records: (heading, table, note)."""
    return [
        ("Labels and categories", categories(records), ""),
        ("Where the labels come from, and their measured precision", detectors(records), MEASURED),
    ]


def share(count: int, records: Sequence[Record]) -> str:
    return f"{count} ({count / len(records):.0%})"


def kind_of(record: Record) -> tuple[str, str]:
    return record.label.upper(), (record.provenance or {}).get("category") or "-"


def categories(records: Sequence[Record]) -> list[dict[str, str]]:
    counts = Counter(map(kind_of, records))
    return [{"label": label, "category": kind, "records": share(count, records)} for (label, kind), count in counts.most_common()]


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
    plain = [record for record in records if (record.provenance or {}).get("label") == label]  # not "both": it has the lower of two
    if detector == "rules":
        return rules.MEASURED[label]
    if detector == "classifier" and min(map(confidence, plain), default=1.0) >= classifier.MEASURED_FROM[label]:
        return classifier.MEASURED[label]
    return "not measured" if detector in ("classifier", "judge") else "as the source's"
