"""Guided prompts: the conversation, the disliked reply, the user's feedback, and an instruction to do better.

The official script writes this as plain `User: ... Assistant: ...` text; here it goes through the chat template, so that the model
gets turns in the format it was trained on and stops at their end. In both cases the pair is trained on the original prompt.
"""

import random
from dataclasses import dataclass

from drift.errors import UserError
from drift.records import Prompt, Record


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """`share`: the share of the fresh replies that are drawn from a guided prompt. `instruction`: the end of that prompt."""

    share: float
    instruction: str

    def check(self) -> None:
        if not 0 <= self.share <= 1:
            raise UserError(f"method.guidance.share={self.share}: expected 0 (never) to 1 (always).")

    def prompts(self, record: Record, count: int) -> list[Prompt]:
        """`count` prompts, `share` of them guided. The number is rounded at random, with the record as the seed."""
        exact = self.share * count
        num_guided = int(exact) + (random.Random(record.key).random() < exact % 1)
        return [self.guided(record)] * num_guided + [record.prompt] * (count - num_guided)

    def guided(self, record: Record) -> Prompt:
        request = f"{record.feedback}\n\n{self.instruction}" if record.feedback else self.instruction
        return [*record.prompt, {"role": "assistant", "content": record.reply}, {"role": "user", "content": request}]
