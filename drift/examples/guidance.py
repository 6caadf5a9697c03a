"""Guided prompts: the conversation, the disliked reply, the user's feedback and an instruction to do better.

The official script writes this as plain `User: ... Assistant: ...` text; here it goes through the model's chat template, so the
model sees turns it knows and stops at their end. The pair is trained on the original prompt either way.
"""

import random
from dataclasses import dataclass

from drift.errors import UserError
from drift.records import Prompt, Record


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """`share`: of the fresh replies that see the disliked reply and the feedback. `instruction`: ends the guided prompt."""

    share: float
    instruction: str

    def check(self) -> None:
        if not 0 <= self.share <= 1:
            raise UserError(f"method.guidance.share={self.share}: expected 0 (never) to 1 (always).")

    def prompts(self, record: Record, count: int) -> list[Prompt]:
        """`count` prompts of which the share is guided; a share that does not divide is rounded by chance, fixed by content."""
        exact = self.share * count
        num_guided = int(exact) + (random.Random(record.key).random() < exact % 1)
        return [self.guided(record)] * num_guided + [record.prompt] * (count - num_guided)

    def guided(self, record: Record) -> Prompt:
        said = f"{record.feedback}\n\n{self.instruction}" if record.feedback else self.instruction
        return [*record.prompt, {"role": "assistant", "content": record.reply}, {"role": "user", "content": said}]
