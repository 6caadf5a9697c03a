"""A simulated deployment with a known truth: an assistant answers users, who check each reply and complain, thank or say nothing.

One record of the log: prompt [{"role": "user", "content": "Tell me something about tea. Use a single sentence, please."}],
reply "Tea is warm. It is a drink.", label dsat, feedback "No, I asked for one sentence.", revised (the reply to that), satisfied
false, truth {"topic": "tea", "request": "one_sentence"}. Source: our own; `requests.py` defines what users ask for and how they
check it, `users.py` who of them speaks, and a model writes the replies.

Topics are split permanently: train (the log), validation (for all tuning), test (for reported numbers).
"""

import dataclasses
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from drift.data import users
from drift.data.requests import REQUESTS, SETS, TOPICS, Check, verify
from drift.data.users import Rates
from drift.errors import UserError
from drift.identity import code
from drift.intake.collected import Collected
from drift.model.pretrained import checked_directory
from drift.parts import Ask
from drift.records import Prompt, Record, Reply, digest

VERSION = 5
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
class Deployed:
    """The assistant that wrote the first log, if it is not the start model as the run samples from it. `policy`: the directory of
    another policy. `temperature`: instead of the sampler's. `system`: instead of the deployment's. Null: no difference."""

    policy: str | None
    temperature: float | None
    system: str | None

    def check(self) -> None:
        self.directory()
        if self.temperature is not None and self.temperature < 0:
            raise UserError(f"data.deployed.temperature={self.temperature}: expected 0 or more.")

    def directory(self) -> Path | None:
        """The checked directory of the policy, if there is one."""
        return None if self.policy is None else checked_directory(self.policy, None, "data.deployed.policy")

    def sampler(self, sampler: Any) -> Any:
        """A run's sampler with the assistant's temperature."""
        if self.temperature is None:
            return sampler
        if "temperature" not in {field.name for field in dataclasses.fields(sampler)}:
            raise UserError("data.deployed.temperature: this sampler has no temperature. Use sampler=transformers, or null.")
        return dataclasses.replace(sampler, temperature=self.temperature)


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """`seed`: chooses the prompts, and the noise of the log and the evaluation. `num_prompts`: conversations in the log.
    `second_tries`: the assistant also answers complaints, which gives the warm start its DSAT -> SAT pairs. `system`: the system
    message of the assistant (null: the default of the model's chat template). `requests`: a set of `requests.SETS`. The rates are
    those of `users.Rates`. `deployed`: who wrote the first log."""

    seed: int
    num_prompts: int
    second_tries: bool
    system: str | None
    requests: str
    complaint_rate: float
    praise_rate: float
    false_praise: float
    unfounded: float
    deployed: Deployed

    knows_truth = True
    uses_policy = True
    gives_records = True

    def check(self) -> None:
        if self.num_prompts < 8:
            raise UserError(f"data.num_prompts={self.num_prompts}: expected at least 8.")
        if self.requests not in SETS:
            raise UserError(f"data.requests={self.requests}: expected one of {', '.join(SETS)}.")
        self.rates.check()

    @property
    def rates(self) -> Rates:
        names = [field.name for field in dataclasses.fields(Rates)]
        return Rates(**{name: getattr(self, name) for name in names})

    def at(self, iteration: int) -> "Deployment":
        """The users of an iteration: later ones than the first talk to the policy that it starts from."""
        return self if iteration == 1 else dataclasses.replace(self, deployed=Deployed(policy=None, temperature=None, system=None))

    def key(self) -> dict[str, Any]:
        """Without the deployed policy, whose content is known to the one who asks it."""
        settings = dataclasses.asdict(self) | {"deployed": {"system": self.deployed.system}}
        return {"data": "deployment", "version": VERSION, "checks": code(verify), "users": code(Rates)} | settings

    def tasks_key(self) -> dict[str, Any]:
        """What the tasks of any split depend on."""
        return {"version": VERSION, "seed": self.seed, "system": self.system, "requests": self.requests}

    def tasks(self, split: Split, count: int) -> list[Task]:
        """`count` different tasks on the split's topics; the kinds of request alternate."""
        rng = random.Random(digest([self.seed, split]))
        topics = split_topics()[split]
        asked = SETS[self.requests]
        if count > len(topics) * len(asked.requests) * len(asked.frames):
            raise UserError(f"The {split} split has too few topics for {count} different prompts.")
        tasks: dict[str, Task] = {}
        while len(tasks) < count:
            kind = asked.requests[len(tasks) % len(asked.requests)]
            truth = {"topic": rng.choice(topics), "request": kind}
            text = f"{rng.choice(asked.frames).format(**truth)} {rng.choice(REQUESTS[kind].asks)}"
            system = [] if self.system is None else [{"role": "system", "content": self.system}]
            task = Task(prompt=[*system, {"role": "user", "content": text}], truth=truth)
            tasks.setdefault(task.key, task)
        return list(tasks.values())

    def collect(self, ask: Ask) -> Collected:
        """The log: a reply to every prompt and the user's feedback; with `second_tries`, also a second, checked reply to
        complaints."""
        tasks = self.tasks("train", self.num_prompts)
        drawn = [(task, reply) for task, (reply,) in ask.draw(tasks, self._as_deployed, label="first replies")]
        checks = [verify(task.truth, reply.text, ended=reply.ended) for task, reply in drawn]
        said = self.rates.labels(self.seed, [(task.key, check.useful) for (task, _), check in zip(drawn, checks, strict=True)])
        records = [
            self._record(i, task, reply, check, label)
            for i, ((task, reply), check, label) in enumerate(zip(drawn, checks, said, strict=True))
        ]
        to_retry = [record for record in records if record.label == "dsat" and self.second_tries]
        second: dict[str, Record] = {}
        for record, (reply,) in ask.draw(to_retry, self._after_complaint, label="second tries"):
            satisfied = verify(record.truth or {}, reply.text, ended=reply.ended).useful
            second[record.id] = dataclasses.replace(record, revised=reply.text, satisfied=satisfied)
        records = [second.get(record.id, record) for record in records]
        return Collected(records=records, set_aside=[], facts=facts(records, checks))

    def _record(self, number: int, task: Task, reply: Reply, check: Check, label: users.Label) -> Record:
        return Record(
            id=f"deployment-{number:05d}",
            conversation=task.key[:16],
            prompt=task.prompt,
            reply=reply.text,
            label=label,
            ended=reply.ended,
            feedback=users.next_turn(self.seed, task.key, label, task.truth, check),
            revised=None,
            satisfied=label == "sat",
            truth=task.truth,
            provenance=None,
        )

    def _as_deployed(self, task: Task) -> list[Prompt]:
        """The prompt with the system message of the deployed assistant."""
        return [self._to_deployed(task.prompt)]

    def _to_deployed(self, prompt: Prompt) -> Prompt:
        return prompt if self.deployed.system is None else [{"role": "system", "content": self.deployed.system}, prompt[-1]]

    def _after_complaint(self, record: Record) -> list[Prompt]:
        """The prompt of the second try: the conversation with the deployed assistant, including the complaint."""
        assert record.feedback is not None
        added = [{"role": "assistant", "content": record.reply}, {"role": "user", "content": record.feedback}]
        return [[*self._to_deployed(record.prompt), *added]]


def facts(records: Sequence[Record], checks: Sequence[Check]) -> dict[str, Any]:
    """What there was, for the report: the truth, which users' words only hint at."""
    useful = Counter((record.label, check.useful) for record, check in zip(records, checks, strict=True))
    wrong = {
        "silent users": useful["silent", True] + useful["silent", False],
        "SAT for a reply that was not useful": useful["sat", False],
        "DSAT for a useful reply": useful["dsat", True],
    }
    known = {"conversations simulated": len(records), "useful replies": sum(check.useful for check in checks)}
    return known | {name: count for name, count in wrong.items() if count}


def split_topics() -> dict[Split, list[str]]:
    """A fixed split by the topics' hashes: 1/5 validation, 3/10 test, the rest train."""
    topics: list[str] = sorted(TOPICS, key=digest)
    num_validation, num_test = len(topics) // 5, 3 * len(topics) // 10
    end = num_validation + num_test
    return {"validation": topics[:num_validation], "test": topics[num_validation:end], "train": topics[end:]}
