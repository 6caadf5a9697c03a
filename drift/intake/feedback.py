"""The feedback stage: collects what users said, from a simulation or from files, and keeps what can be trained on."""

from collections import Counter
from pathlib import Path
from typing import Any

from drift.engine.ask import Ask
from drift.errors import UserError
from drift.identity import identity, named
from drift.intake.collected import ASIDE, no_records_message
from drift.intake.intake import Intake, snapshots
from drift.intake.usable import usable
from drift.records import write_jsonl
from drift.store import Stage

VERSION = 1


def feedback_stage(ask: Ask, data: Any, intake: Intake, mine: Any, tokenizer: Any) -> Stage:
    """Writes `records.jsonl`, and `quarantine.jsonl` with the reason for every row that is not used."""

    def work(progress: Path, output: Path) -> dict[str, Any]:
        if data.uses_policy:
            with ask:
                collected = data.collect(ask)
        else:
            collected = intake.collect(data, mine, log)
        limits = {"max_tokens": ask.compute.max_tokens, "max_new_tokens": ask.sampler.max_new_tokens}
        records, unusable = usable(collected.records, tokenizer, **limits)
        aside = [*collected.set_aside, *unusable]
        write_jsonl(output / "records.jsonl", records)
        write_jsonl(output / "quarantine.jsonl", aside)
        labels = Counter(record.label for record in records)
        if not records:
            raise UserError(no_records_message(collected.facts, aside))
        facts = {
            "DSAT": labels["dsat"],
            "SAT": labels["sat"],
            "DSAT then satisfied": sum(r.label == "dsat" and r.satisfied for r in records),
        }
        reasons = Counter(f"{ASIDE}{row['reason']}" for row in aside)
        return {"counts": collected.facts | facts | dict(reasons), "set_aside": aside[:20]}

    sampler = identity(ask.sampler) if data.uses_policy else {"max_new_tokens": ask.sampler.max_new_tokens}
    log = [] if data.uses_policy else snapshots(data)  # exactly what the key covers is read, even if the log grows meanwhile
    key = data.key() if data.uses_policy else intake.key(data, mine, log)
    parts = [named(part) for part in ([data] if data.uses_policy else [data, intake, mine])]
    settings = {"data": key, "parts": parts, "sampler": sampler, "max_tokens": ask.compute.max_tokens}
    inputs = {"policy": ask.policy.fingerprint}
    if data.uses_policy and data.deployed.policy is not None:  # it may have another tokenizer than `usable` counts with
        inputs["start"] = ask.start.fingerprint
    return ask.store.run("feedback", work, version=VERSION, settings=settings, inputs=inputs)
