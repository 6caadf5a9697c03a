"""A judge that is a reward model: any Hugging Face model for sequence classification with a chat template.

It reads the prompt and a reply as the assistant's turn; a reply that was cut off is shown as it is. Nothing is truncated here:
a conversation that is longer than the model's positions or `max_tokens`, or that its template can't render, has no score, and its
item is skipped and counted.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from drift.errors import UserError
from drift.model import precision, reward
from drift.model.policy import Policy, load_tokenizer, policy_at
from drift.model.pretrained import local_directory
from drift.parts import Grade
from drift.records import Record, Reply


@dataclass(frozen=True, kw_only=True)
class RewardModel:
    """`path`: a directory or a hub id. `revision`: commit of the hub id (null: the cached main branch). `positive`: the label of
    the class, or quality, that scores (null: the head has one output). `output`: the log-probability of that class, or its logit.
    `max_tokens`: longer conversations get no score (null: the model's own limit). `tokens_per_batch`: scored together.
    `group_size`: items judged at once."""

    path: str
    revision: str | None
    positive: str | None
    output: reward.Output
    max_tokens: int | None
    tokens_per_batch: int
    group_size: int
    precision: precision.Precision

    needs_truth: ClassVar[bool] = False
    setting: str = field(init=False, compare=False)  # where it stands in the config, for messages

    def __post_init__(self) -> None:
        self.place("method.judge")

    def place(self, setting: str) -> None:
        object.__setattr__(self, "setting", setting)

    def check(self) -> None:
        for name in ("max_tokens", "tokens_per_batch", "group_size"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise UserError(f"{self.setting}.{name}={value}: expected at least 1.")
        reward.check_reward_model(self.directory())
        self._head()

    def _head(self) -> reward.Head:
        return reward.head_of(self.directory(), self.positive, self.output, self.setting)

    @property
    def label(self) -> str:
        return f"reward model {self.path if self.revision is None else f'{self.path}@{self.revision}'}"

    def directory(self) -> Path:
        return local_directory(self.path, self.revision, f"{self.setting}.path")

    def model(self) -> Policy:
        return policy_at(self.directory())

    def key(self) -> dict[str, Any]:
        """The model's bytes, not its path; in bfloat16 a score also depends on what it is computed together with."""
        dtype = precision.resolve(self.precision)
        return {
            "model": self.model().fingerprint,
            "positive": self.positive,
            "output": self.output,
            "max_tokens": self.max_tokens,
            "precision": dtype,
            "together": [self.group_size, self.tokens_per_batch] if dtype == "bfloat16" else None,
        }

    @contextmanager
    def open(self) -> Iterator[Grade]:
        """Loads the model; frees it."""
        import torch

        model = self.model()
        tokenizer, head = load_tokenizer(model), self._head()
        most = min(reward.most_tokens(model.directory, tokenizer), self.max_tokens or 2**63)
        dtype = getattr(torch, precision.resolve(self.precision))
        with reward.open_reward_model(model, head, dtype, self.tokens_per_batch, self.setting) as scores:

            def grade(groups: Sequence[tuple[Record, Sequence[Reply]]]) -> list[list[float | None]]:
                texts = [(record.prompt, reply.text) for record, replies in groups for reply in replies]
                tokens = [reward.tokens_of(tokenizer, prompt, text, most) for prompt, text in texts]
                found = iter(scores([ids for ids in tokens if ids is not None]))
                each = iter([None if ids is None else next(found) for ids in tokens])
                return [[next(each) for _ in replies] for _, replies in groups]

            yield grade
