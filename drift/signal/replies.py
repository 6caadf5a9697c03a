"""The fresh replies that directions are estimated on, and the truth about replies where it is known."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from drift.compose import CONF
from drift.engine.ask import Ask
from drift.engine.rendered import render_replies
from drift.errors import UserError
from drift.model.policy import load_tokenizer
from drift.randomness import order
from drift.records import Record, Reply, digest
from drift.score.sequence import TokenSequence

FEWEST = 4  # prompts: two in each half


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """K fresh replies to a prompt. `record`: the prompt and its truth."""

    record: Record
    replies: list[Reply]
    sequences: list[TokenSequence]

    @property
    def prompt(self) -> str:
        return prompt_key(self.record.prompt)


def prompt_key(prompt: Any) -> str:
    return digest(list(prompt))


def fresh_replies(ask: Ask, records: Sequence[Record], num_prompts: int, num_replies: int) -> list[Drawn]:
    """`num_replies` fresh replies to each of at most `num_prompts` different prompts of the log. They depend on the prompts, not on
    what was said of the log's replies, so that logs which differ only in that share them."""
    by_prompt = {prompt_key(record.prompt): record for record in records}
    names = list(by_prompt)
    chosen = [by_prompt[names[i]] for i in order(ask.seed, "signal", 0, names)[:num_prompts]]
    unsaid = {"label": "sat", "reply": "", "ended": True, "feedback": None, "revised": None, "satisfied": False, "provenance": None}
    asked = [replace(record, **unsaid) for record in chosen]
    found = []
    with ask:
        tokenizer = load_tokenizer(ask.policy)
        prompts_of = lambda record: [record.prompt] * num_replies  # noqa: E731
        for record, replies in ask.draw(asked, prompts_of, label="fresh replies for the directions"):
            sequences = render_replies(tokenizer, [(record.prompt, reply.text, reply.ended) for reply in replies])
            if len(sequences) == num_replies:
                found.append(Drawn(record=record, replies=replies, sequences=list(sequences.values())))
    if len(found) < FEWEST:
        raise UserError(
            f"The log has {len(by_prompt)} different prompts, of which {len(found)} could be used. Expected at least {FEWEST}, so "
            "that directions can be estimated on one half and applied to the other."
        )
    return found


def verdicts(ask: Ask, items: Iterable[tuple[Record, Sequence[Reply]]]) -> list[list[float]]:
    """1 for a good reply, 0 for a bad one, by the deployment's own check: the judge without its noise."""
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    oracle = instantiate(OmegaConf.load(CONF / "judge" / "verifier.yaml"), noise=0.0)
    drawn = [(record, list(replies)) for record, replies in items]
    with ask:
        return [[float(score > 0.5) for score in scores] for _, _, scores in ask.judge(oracle, drawn, label="checking replies")]
