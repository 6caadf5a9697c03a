"""A simulated deployment with a known truth: the start model answers users, who check each reply and complain or thank.

One record of the log: prompt [{"role": "user", "content": "Tell me something about tea. Write it without commas."}],
reply "Tea, a hot drink, ...", label dsat, feedback "I said no commas.", revised (the reply to that), satisfied false,
truth {"topic": "tea", "request": "no_commas"}. Source: our own; `requests.py` defines the users, the model writes the replies.

Topics are split permanently: train (the log), validation (for all tuning), test (for reported numbers).
"""

import dataclasses
import random
from dataclasses import dataclass
from typing import Any, Literal

from drift.data import requests
from drift.errors import UserError
from drift.intake.collected import Collected
from drift.records import Prompt, Record, digest

VERSION = 3
Split = Literal["train", "validation", "test"]


@dataclass(frozen=True, kw_only=True)
class Task:
    """One thing a user asks for."""

    prompt: Prompt
    truth: dict[str, str]

    @property
    def key(self) -> str:
        return digest(list(self.prompt))


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """`seed`: chooses the prompts, and the noise of the log and the evaluation. `num_prompts`: conversations in the log.
    `second_tries`: the assistant also answers complaints, which gives the warm start its DSAT -> SAT pairs. `system`: the system
    message of the deployed assistant (null: the default of the model's chat template)."""

    seed: int
    num_prompts: int
    second_tries: bool
    system: str | None

    knows_truth = True
    uses_policy = True
    gives_records = True

    def check(self) -> None:
        if self.num_prompts < 8:
            raise UserError(f"data.num_prompts={self.num_prompts}: expected at least 8.")

    def key(self) -> dict[str, Any]:
        return {"data": "deployment", "version": VERSION} | dataclasses.asdict(self)

    def tasks_key(self) -> dict[str, Any]:
        """What the tasks of any split depend on."""
        return {"version": VERSION, "seed": self.seed, "system": self.system}

    def tasks(self, split: Split, count: int) -> list[Task]:
        """`count` different tasks on the split's topics; the kinds of request alternate."""
        rng = random.Random(digest([self.seed, split]))
        topics = split_topics()[split]
        if count > len(topics) * len(requests.REQUESTS) * 6:
            raise UserError(f"The {split} split has too few topics for {count} different prompts.")
        tasks: dict[str, Task] = {}
        kinds = sorted(requests.REQUESTS)
        while len(tasks) < count:
            kind = kinds[len(tasks) % len(kinds)]
            truth = {"topic": rng.choice(topics), "request": kind}
            text = f"{rng.choice(requests.FRAMES).format(**truth)} {rng.choice(requests.REQUESTS[kind].asks)}"
            system = [] if self.system is None else [{"role": "system", "content": self.system}]
            task = Task(prompt=[*system, {"role": "user", "content": text}], truth=truth)
            tasks.setdefault(task.key, task)
        return list(tasks.values())

    def collect(self, ask: Any) -> Collected:
        """The log: a reply to every prompt and the user's feedback; with `second_tries`, also a second, checked reply to
        complaints."""
        records: list[Record] = []
        for task, (reply,) in ask.draw(
            self.tasks("train", self.num_prompts), _prompts, first_sample=0, label="deployment: first replies"
        ):
            check = requests.verify(task.truth, reply.text)
            feedback = requests.next_turn(task.truth, check, random.Random(digest([self.seed, task.key])).choice)
            records.append(
                Record(
                    id=f"deployment-{len(records):05d}",
                    conversation=task.key[:16],
                    prompt=task.prompt,
                    reply=reply.text,
                    label="sat" if check.useful else "dsat",
                    ended=reply.ended,
                    feedback=feedback,
                    revised=None,
                    satisfied=check.useful,
                    truth=task.truth,
                    provenance=None,
                )
            )
        to_retry = [record for record in records if record.label == "dsat" and self.second_tries]
        second: dict[str, Record] = {}
        for record, (reply,) in ask.draw(to_retry, after_complaint, first_sample=0, label="deployment: second tries"):
            satisfied = requests.verify(record.truth, reply.text).useful and reply.ended
            second[record.id] = dataclasses.replace(record, revised=reply.text, satisfied=satisfied)
        return Collected(
            records=[second.get(record.id, record) for record in records],
            set_aside=[],
            facts={"conversations simulated": len(records)},
        )


def _prompts(task: Task) -> list[Prompt]:
    return [task.prompt]


def after_complaint(record: Record) -> list[Prompt]:
    """The prompt of the second try: the conversation including the complaint."""
    assert record.feedback is not None
    added = [{"role": "assistant", "content": record.reply}, {"role": "user", "content": record.feedback}]
    return [[*record.prompt, *added]]


def split_topics() -> dict[Split, list[str]]:
    """A fixed split by the topics' hashes: 1/5 validation, 3/10 test, the rest train."""
    topics: list[str] = sorted(requests.TOPICS, key=digest)
    num_validation, num_test = len(topics) // 5, 3 * len(topics) // 10
    end = num_validation + num_test
    return {"validation": topics[:num_validation], "test": topics[num_validation:end], "train": topics[end:]}
