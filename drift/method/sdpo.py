"""SDPO on logged conversations (arXiv 2603.12273): every logged reply that a user answered, with what the user said. No pairs, no
fresh samples, no labels.

Each example has a second prompt, which the teacher reads (see objective/sdpo.py): the original one, with the user's words at the
end of its last message. As in the authors' code, that prompt does not show the reply that the words are about, and calls it bad
whatever the user thought of it. Where we differ: the text around the user's words is our own, and a setting.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from drift.errors import UserError
from drift.parts import Ask
from drift.records import Example, Prompt, Record, example, logged

FEEDBACK = "{feedback}"


@dataclass(frozen=True, kw_only=True)
class Sdpo:
    """`rounds`: the most times that an iteration uses a logged reply. `context`: what the teacher reads at the end of the prompt;
    {feedback} stands for the user's words."""

    rounds: int
    context: str

    paired: ClassVar[bool] = False
    hindsight: ClassVar[bool] = True
    needs: ClassVar[str] = "what the user said after the reply, in words (a rating alone is not enough)"
    judge = None

    def check(self) -> None:
        if FEEDBACK not in self.context:
            raise UserError(f"method.context={self.context!r}: expected {FEEDBACK} in it, where the user's words belong.")

    def learns_from(self, record: Record) -> bool:
        return bool(record.feedback)

    def make_examples(self, records: Sequence[Record], ask: Ask) -> Iterator[Example]:
        answered = [record for record in records if self.learns_from(record)]
        for _ in range(self.rounds):
            for record in answered:
                made = example(record, logged(record, good=record.label == "sat"))
                yield replace(made, hindsight=self.hindsight_of(record))

    def hindsight_of(self, record: Record) -> Prompt:
        """The record's prompt with the user's words at its end."""
        *before, last = record.prompt
        told = self.context.replace(FEEDBACK, (record.feedback or "").strip())
        return [*before, last | {"content": last["content"] + told}]
