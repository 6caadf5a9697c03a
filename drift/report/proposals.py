"""The settings that `describe` proposes for a run on a log: the length of replies, the held-out share, and a command with both.

- `method`: the first one that is recommended for such a log (drift/report/recommend.py).
- `sampler.max_new_tokens`: room for 95 of 100 liked replies of the log (of all replies, if fewer than 20 are liked) and their
  end-of-turn token, rounded up to a multiple of 16; at most half of `train.max_tokens`.
- `evaluation.heldout.share`: enough to hold out the number of pairs that can show a likely change (`outlook.LIKELY`), in steps of
  .05, from .1 to half of the log. `evaluation.heldout.max_records` is raised if it would exclude some of them.

Settings on the command line are left as they are.
"""

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from drift.evaluation import outlook
from drift.evaluation.heldout import is_pair
from drift.records import Record
from drift.report.recommend import first_choice

OF_REPLIES, FEW, ROUND = 0.95, 20, 16
LEAST_SHARE, STEP = 0.1, 0.05


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """`settings`: name -> value, without those that the user set. `why`: sentences. `max_new_tokens`: proposed, or the user's."""

    settings: dict[str, str]
    why: list[str]
    max_new_tokens: int

    def command(self, file: Path, overrides: Sequence[str]) -> str:
        """The command of the run, to copy into a shell."""
        settings = [f"{name}={value}" for name, value in self.settings.items()]
        return f"drift run {shlex.join(['data=records', f'data.path={file}', *settings, *overrides])}"


def propose(records: Sequence[Record], lengths: Mapping[str, list[int]], run: Any, overrides: Sequence[str]) -> Proposal:
    """`lengths`: tokens of each text ("reply", …), in the order of `records`."""
    user_set = {override.lstrip("+").partition("=")[0] for override in overrides}
    settings: dict[str, str] = {}
    why: list[str] = []
    longest = run.sampler.max_new_tokens
    if "sampler.max_new_tokens" not in user_set:
        longest, reason = reply_room(records, lengths["reply"], run.train.max_tokens)
        settings["sampler.max_new_tokens"] = str(longest)
        why.append(reason)
    evaluation = run.evaluation["heldout"]
    if "evaluation.heldout.share" not in user_set:
        judged = sum(record.label != "silent" for record in records)  # no other is held out
        evaluation = replace(evaluation, share=held_out_share(sum(map(is_pair, records)), judged))
        settings["evaluation.heldout.share"] = f"{evaluation.share:g}"
    training, held_out = evaluation.separate(list(records))
    if "evaluation.heldout.max_records" not in user_set and len(held_out) > evaluation.max_records:
        evaluation = replace(evaluation, max_records=len(held_out))
        settings["evaluation.heldout.max_records"] = str(len(held_out))
    if not {"method", "experiment"} & user_set:
        settings["method"] = first_choice(records).partition("=")[2]
    why += evaluation.outlook(training, held_out)
    return Proposal(settings=settings, why=why, max_new_tokens=longest)


def reply_room(records: Sequence[Record], lengths: Sequence[int], max_tokens: int) -> tuple[int, str]:
    """(tokens that a fresh reply may have, why)."""
    liked = [length for record, length in zip(records, lengths, strict=True) if record.label == "sat"]
    kind, counted = ("liked replies", liked) if len(liked) >= FEW else ("replies", lengths)
    longest = sorted(counted)[math.ceil(OF_REPLIES * len(counted)) - 1]
    room, most = math.ceil((longest + 1) / ROUND) * ROUND, max(ROUND, max_tokens // 2)
    fact = f"{OF_REPLIES:.0%} of the log's {kind} have at most {longest} tokens"
    if room > most:
        return most, f"{fact}; fresh ones can have {most}, half of train.max_tokens={max_tokens}. For longer ones, raise that."
    return room, f"{fact}; sampler.max_new_tokens={room} lets fresh ones be as long."


def held_out_share(pairs: int, records: int) -> float:
    """The share of the conversations to hold out. In a log without pairs, the liked and disliked records count instead."""
    wanted = outlook.enough_for(outlook.LIKELY)
    share = math.ceil(wanted / max(1, pairs or records) / STEP - 1e-9) * STEP
    return round(min(outlook.LARGEST_SHARE, max(LEAST_SHARE, share)), 2)
