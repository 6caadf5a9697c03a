"""The fresh replies of every policy, with their rewards: stages of the store, in groups."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from omegaconf import DictConfig

from drift.config import build_part
from drift.errors import UserError
from drift.exploration.subjects import Seed
from drift.judge import sides
from drift.judge.llm import Llm
from drift.judge.verifier import Verifier
from drift.parts import Judge
from drift.records import Record, Reply

TRUTH = (
    "the deployment's own check, which knows the truth: 1 if a reply meets the request, is on topic, sound and not cut off, else 0"
)
NONE = "none: the prompts have no known truth and no judge was given (judge=NAME), so the density is that of the replies alone"


@dataclass(frozen=True, kw_only=True)
class Pool:
    """All replies, a row each: `texts`, `rewards` (N,), and the numbers of its seed, policy and prompt (N,), prompts being counted
    over all seeds. `records`: of each prompt. `reward`: what it is, in words. `notes`: sentences for the page."""

    texts: list[str]
    rewards: Any
    seeds: Any
    policies: Any
    prompts: Any
    records: list[Record]
    seed_names: list[str]
    policy_names: list[str]
    reward: str
    notes: list[str] = field(default_factory=list)

    def prompts_of(self, seed: int) -> list[int]:
        """The numbers of a seed's prompts."""
        return [int(prompt) for prompt in np.unique(self.prompts[self.seeds == seed])]


def judge_of(config: DictConfig, truth: bool) -> tuple[Judge | None, str]:
    """(the judge that gives the rewards, and what they are): the user's, else the truth, else the runs' own judge, else none."""
    if truth and not config.judge_given:
        return Verifier(noise=0.0, seed=0, group_size=64), TRUTH
    if config.judge is None:
        return None, NONE
    judge: Any = build_part(config.judge, "judge")
    if judge.needs_truth and not truth:
        raise UserError(f"judge ({judge.label}) checks replies against a known truth, which these prompts do not have.")
    if sides.compares(judge):
        how = " Set judge.mode=absolute." if isinstance(judge, Llm) else ""
        raise UserError(f"The judge ({judge.label}) compares replies, so its scores mean nothing between prompts.{how}")
    return judge, f"scores of a judge: {judge.label}"


def draw(seeds: Sequence[Seed], num_samples: int) -> Pool:
    """Draws and judges. A prompt that lacks a reply or a reward of any policy is left out for all, so that all policies have
    equally many replies."""
    names = list(seeds[0].policies)
    rows: list[tuple[int, int, int, str, float]] = []
    records: list[Record] = []
    notes = list[str]()
    judge, reward = judge_of(seeds[0].config, all(record.truth is not None for seed in seeds for record in seed.records))
    for s, seed in enumerate(seeds):
        by_policy = [of_policy(seed, name, judge, num_samples) for name in names]
        whole = [record for record in seed.records if all(record.key in found for found in by_policy)]
        if len(whole) < len(seed.records):
            notes.append(f"{seed.name}: {len(seed.records) - len(whole)} prompts were too long, or had a reply without a score.")
        if not whole:
            raise UserError(f"{seed.name}: no prompt has replies with rewards of every policy.")
        for p, record in enumerate(whole, len(records)):
            for m, found in enumerate(by_policy):
                rows += [(s, m, p, reply.text, score) for reply, score in found[record.key]]
        records += whole
    numbers = np.array([row[:3] for row in rows])
    rewards = np.array([row[4] for row in rows])
    if judge is not None and rewards.min() == rewards.max():
        notes.append(f"All replies have the same reward ({rewards[0]:g}), so the density is that of the replies alone.")
    return Pool(
        texts=[row[3] for row in rows], rewards=rewards, seeds=numbers[:, 0], policies=numbers[:, 1], prompts=numbers[:, 2],
        records=records, seed_names=[seed.name for seed in seeds], policy_names=names, reward=reward, notes=notes,
    )  # fmt: skip


def of_policy(seed: Seed, name: str, judge: Judge | None, num_samples: int) -> dict[str, list[tuple[Reply, float]]]:
    """Prompt -> its replies and their rewards (1 without a judge)."""
    with seed.ask(seed.policies[name]) as ask:
        label = f"{name}, {seed.name}: replies"
        drawn = list(ask.draw(seed.records, lambda record: [record.prompt] * num_samples, label=label))
        if judge is None:
            return {record.key: [(reply, 1.0) for reply in replies] for record, replies in drawn}
        judged = ask.judge(judge, drawn, label=f"{name}, {seed.name}: rewards")
        return {record.key: list(zip(replies, scores, strict=True)) for record, replies, scores in judged}
