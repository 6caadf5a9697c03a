"""`drift describe`: a summary of a file of records, on the console and as a self-contained HTML page."""

import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from drift.console import Progress, say, table
from drift.errors import UserError
from drift.intake.aside import told
from drift.intake.duplicates import SeenRecords
from drift.intake.language import detect_language
from drift.intake.rows import Aside
from drift.intake.usable import usable
from drift.records import Record, digest, write_text
from drift.report import page, plots
from drift.report.card import card, kind_of, share
from drift.report.proposals import propose
from drift.report.recommend import recommended

EXAMPLES_OF_EACH, ALIKE, WIDTH = 2, 0.8, 110
NOT_TOLD = "too short to tell"


def describe(run: Any, overrides: Sequence[str], file: Path, out: Path) -> None:
    """Writes the page to `out`. `run`: a run on these records, which sets the model and the length limits. `overrides`: the user's
    settings of it."""
    from drift.model.policy import load_tokenizer, policy_at

    items = [item for part in run.data.files() for item in run.data.conversations(part)]
    records, broken = [i for i in items if isinstance(i, Record)], [i for i in items if isinstance(i, Aside)]
    if not records:
        why = f" The first of {len(broken)} unreadable rows is {told(broken[0])}." if broken else ""
        raise UserError(f"{file} contains no records. Expected a file written by `drift mine`.{why}")
    tokenizer = load_tokenizer(policy_at(run.model.directory(), template=run.model.template))
    lengths = lengths_of(records, tokenizer)
    proposal = propose(records, lengths, run, overrides)
    limits = {"max_tokens": run.train.max_tokens, "max_new_tokens": proposal.max_new_tokens}
    fit, rejected = usable(records, tokenizer, **limits)
    counts = languages(records)
    facts = [*sentences(records, broken, fit, rejected, limits), twins(records), *unread(counts)]
    verdict = [*facts, recommended(records), *proposal.why]
    command = proposal.command(file, overrides)
    tables = [
        *card(records),
        ("Languages of the requests", [{"language": name, "records": share(n, records)} for name, n in counts.most_common(12)], ""),
        ("Lengths in tokens", quartiles(lengths), ""),
    ]
    pictures = [
        ("Tokens of prompt and reply", plots.histogram({name: lengths[name] for name in ("prompt", "reply")}, "tokens")),
        ("User turns before the reply", plots.histogram({"turns": [turns(record) for record in records]}, "user turns")),
    ]
    shown = {"title": file.name, "verdict": verdict, "command": command, "tables": tables, "pictures": pictures}
    write_text(out, page.render("describe.html.j2", **shown, examples=examples(records)))
    for line in verdict:
        say(line)
    for heading, rows, note in tables:
        say(f"\n{heading}")
        table(rows)
        if note:
            say(textwrap.fill(note, WIDTH, initial_indent="  ", subsequent_indent="  "))
    say(f"\nTo learn from these records:\n  {command}\nPage: {out}")


def sentences(
    records: Sequence[Record], broken: Sequence[Aside], fit: Sequence[Record], rejected: Sequence[Any], limits: dict[str, int]
) -> list[str]:
    labels = Counter(record.label for record in records)
    seeds = sum(record.label == "dsat" and record.satisfied for record in records)
    reasons = Counter(row["reason"] for row in rejected)
    ratio = f" ({labels['dsat'] / labels['sat']:.1f} : 1)" if labels["sat"] else ""
    silent = f"; {labels['silent']} users said nothing" if labels["silent"] else ""
    allowed = f"train.max_tokens={limits['max_tokens']} and sampler.max_new_tokens={limits['max_new_tokens']}"
    return [
        f"{len(records)} records from {len({record.conversation for record in records})} conversations: {labels['dsat']} DSAT and "
        f"{labels['sat']} SAT{ratio}; {seeds} DSAT were followed by a reply that the user liked{silent}.",
        f"{len(fit)} can be used without cutting anything off, with {allowed}"
        + "".join(f"; {count} {reason}" for reason, count in reasons.items())
        + (f"; {len(broken)} rows can't be read." if broken else "."),
    ]


def twins(records: Sequence[Record]) -> str:
    """How many records are there twice, or nearly (prompt, reply, label and better reply; equal words in fives)."""
    seen, found = SeenRecords(ALIKE), Counter[str]()
    for record in watched(records, "looking for duplicates"):
        twin = seen.find_twin(record)
        found[twin.likeness if twin else ""] += 1
    equal, near = found["equal to"], found["nearly equal to"]
    return f"{equal} have the prompt, the reply, the label and the better reply of an earlier one, {near} nearly so."


def examples(records: Sequence[Record]) -> list[tuple[str, list[Record]]]:
    """(label and category, some of its records), the most frequent first."""
    kinds = Counter(kind_of(record) for record in records)
    shuffled = sorted(records, key=lambda record: digest(record.key))
    return [
        (kind[0] if kind[1] == "-" else ", ".join(kind), [r for r in shuffled if kind_of(r) == kind][:EXAMPLES_OF_EACH])
        for kind, _ in kinds.most_common()
    ]


def lengths_of(records: Sequence[Record], tokenizer: Any) -> dict[str, list[int]]:
    """Text -> its length in tokens in every record."""
    from drift.model.chat import prompt_ids

    lengths: dict[str, list[int]] = {"prompt": [], "reply": [], "feedback": []}
    for record in watched(records, "counting tokens"):
        lengths["prompt"].append(len(prompt_ids(tokenizer, record.prompt)))
        for name, text in (("reply", record.reply), ("feedback", record.feedback or "")):
            lengths[name].append(len(tokenizer(text, add_special_tokens=False).input_ids))
    return lengths


def watched(records: Sequence[Record], label: str) -> Iterator[Record]:
    """The records, under a progress bar."""
    with Progress(label, total=len(records), unit="records") as bar:
        for record in records:
            yield record
            bar.advance(1)


def turns(record: Record) -> int:
    return sum(message["role"] == "user" for message in record.prompt)


def languages(records: Sequence[Record]) -> Counter[str]:
    """Of the requests that the replies answer, by code."""
    return Counter(detect_language(record.prompt[-1]["content"]) or NOT_TOLD for record in watched(records, "telling languages"))


def unread(languages: Counter[str]) -> list[str]:
    """A sentence if some records are in a language that the miner can't read."""
    others = [(code, count) for code, count in languages.most_common() if code not in ("en", NOT_TOLD)]
    if not others:
        return []
    named = ", ".join(f"{code} {count}" for code, count in others)
    return [
        f"{sum(count for _, count in others)} records are not in English ({named}). The miner reads only English, so it misses "
        "most complaints and praise in other languages; a log with ratings needs no miner."
    ]


def quartiles(lengths: dict[str, list[int]]) -> list[dict[str, str]]:
    rows = []
    for name, values in lengths.items():
        low, _, high = quantiles(values, n=4, method="inclusive") if len(values) > 1 else (values[0],) * 3
        row = {
            "text": name,
            "least": min(values),
            "quarter": low,
            "half": median(values),
            "three quarters": high,
            "most": max(values),
        }
        rows.append({key: value if isinstance(value, str) else f"{value:.0f}" for key, value in row.items()})
    return rows
