"""Which method suits a log, by what its users said, as far as experiments/regimes has found out: README's table, and a sentence of
`drift describe`.

The gains are in utility (the share of replies that please) of SmolLM2-135M-Instruct after one iteration in a simulated deployment;
tests/test_regimes.py computes them again from the study's kept runs.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from drift.records import Record


@dataclass(frozen=True, kw_only=True)
class Row:
    """`thanks`: the most SAT records for each DSAT record; `number`: the most of them. `log`: what such a log has. `use`: the
    methods, the first at first."""

    thanks: float
    number: float
    log: str
    use: str
    because: str


ROWS = (
    Row(
        thanks=0.02,
        number=19,  # the study's logs had 21 on average, and they were enough
        log="complaints, and hardly any thanks",
        use="method=drift",
        because="SPIN and SFT have nothing to learn from. DRIFT gained +0.145 [+0.115, +0.175], and learning against logged "
        "replies of the same length, whatever their users said, +0.032 [+0.007, +0.057]",
    ),
    Row(
        thanks=0.3,
        number=float("inf"),
        log="few thanks, about one for six complaints, and they are meant",
        use="method=sft or method=drift",
        because="SFT gained +0.160 [+0.132, +0.188], DRIFT +0.145 [+0.115, +0.175], SPIN +0.129 [+0.090, +0.167]: no difference is "
        "shown. SFT is the cheapest, for it draws no replies",
    ),
    Row(
        thanks=0.75,
        number=float("inf"),
        log="about one thank for two complaints, some of both of them wrong",
        use="method=drift or method=spin",
        because="SPIN gained +0.117 [+0.084, +0.150], DRIFT +0.109 [+0.075, +0.142], SFT +0.117 [+0.046, +0.187]: no difference is "
        "shown, but SFT's gains varied most",
    ),
    Row(
        thanks=float("inf"),
        number=float("inf"),
        log="about as many thanks as complaints, or more, and they are meant",
        use="method=sft or method=spin",
        because="SFT gained +0.169 [+0.140, +0.198], SPIN +0.156 [+0.119, +0.192], DRIFT +0.138 [+0.102, +0.175]: no difference is "
        "shown. SFT is the cheapest, for it draws no replies",
    ),
)


def recommended(records: Sequence[Record]) -> str:
    """A sentence with the row for these records."""
    if (row := row_of(records)) is None:
        liked = any(record.label == "sat" for record in records)
        instead = ": method=sft and method=spin learn from thanks." if liked else ", and there are no thanks either."
        return f"There is no complaint for DRIFT to learn from{instead}"
    return f"A log with {row.log}: {row.use}, because {row.because} (small model, simulated users: experiments/regimes)."


def first_choice(records: Sequence[Record]) -> str:
    """The method that is recommended first, as a setting."""
    row = row_of(records)
    return "method=sft" if row is None else row.use.partition(" or ")[0]


def row_of(records: Sequence[Record]) -> Row | None:
    """None: there is no complaint."""
    labels = Counter(record.label for record in records)
    if not labels["dsat"]:
        return None
    return next(row for row in ROWS if labels["sat"] <= min(row.thanks * labels["dsat"], row.number))
