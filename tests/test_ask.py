"""What is asked of models: in stages that are computed once, one model open at a time."""

import json
import math
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from conftest import compose
from hydra.utils import instantiate
from test_methods import record
from test_scores import plain

from drift.console import Progress
from drift.engine import ask as engine
from drift.engine.ask import Ask
from drift.errors import UserError
from drift.judge.verifier import Verifier
from drift.model.chat import prompt_ids
from drift.model.policy import free, load_model, load_tokenizer, policy_at
from drift.records import Reply
from drift.store import Store

LOG = [record(i, "dsat") for i in range(5)]


@dataclass(frozen=True, kw_only=True)
class Noted:
    """A sampler that notes in a file when it is opened and closed."""

    inner: Any
    group_size: int
    notes: Path

    @property
    def max_new_tokens(self):
        return self.inner.max_new_tokens

    def key(self):
        return self.inner.key()

    @contextmanager
    def open(self, policy):
        with noted(self.notes, "sampler"), self.inner.open(policy) as generate:
            yield generate


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A judge that reads with a model of its own: how likely is it to end here? Notes what it is asked; may stop at a question."""

    directory: Path
    group_size: int
    notes: Path
    stop_at: str | None

    needs_truth = False
    label = "reading"

    def key(self):
        return {"directory": self.directory.name}

    @contextmanager
    def open(self):
        import torch

        policy = policy_at(self.directory)
        with noted(self.notes, "judge"):
            tokenizer, loaded = load_tokenizer(policy), [load_model(policy, torch.float32)]

            def score(one, text):
                if one.id == self.stop_at:
                    raise UserError("The budget is spent.")
                note(self.notes, f"{one.id} {text}")
                ids = prompt_ids(tokenizer, one.prompt) + tokenizer(text)["input_ids"]
                return float(loaded[0](torch.tensor([ids])).logits[0, -1].log_softmax(0)[tokenizer.eos_token_id])

            try:
                yield lambda groups: [[score(one, reply.text) for reply in replies] for one, replies in groups]
            finally:
                loaded.clear()
                free()


@dataclass(frozen=True, kw_only=True)
class Choosy:
    """A judge that has no score for an empty reply."""

    needs_truth = False
    label, group_size = "choosy", 2

    @contextmanager
    def open(self):
        yield lambda groups: [[float(len(reply.text)) if reply.text else None for reply in replies] for _, replies in groups]


@dataclass(frozen=True, kw_only=True)
class Broken:
    """A judge that gives one score an item, or none."""

    score: float | None

    needs_truth = False
    label, group_size = "broken", 2

    @contextmanager
    def open(self):
        yield lambda groups: [[] if self.score is None else [self.score] for _ in groups]


def note(file, line):
    with open(file, "a") as notes:
        notes.write(f"{line}\n")


@contextmanager
def noted(file, name):
    note(file, f"open {name}")
    yield
    note(file, f"close {name}")


@pytest.fixture
def bound(tiny, qwen2, tmp_path) -> Callable[..., Ask]:
    """`bound(store)`: an `Ask` about the tiny model, whose start model is another one; notes in `tmp_path`."""
    config = compose("model=tiny", "sampler.max_new_tokens=4", "train.precision=float32")
    inner = instantiate(config.sampler)

    def made(store="store", **changes):
        sampler = Noted(inner=inner, group_size=4, notes=tmp_path / "notes")
        where = Store(dir=str(tmp_path / store), strict=False, verify=False, lease_seconds=9.0, keep_policies="all")
        noise = {"seed": 0, "purpose": "test", "iteration": 0}
        bound = {"compute": instantiate(config.train).compute, "start": policy_at(qwen2), "policy": policy_at(tiny)} | noise
        return Ask(sampler=sampler, store=where, **bound | changes)

    return made


@pytest.fixture
def reading(qwen2, tmp_path):
    return Reading(directory=qwen2, group_size=2, notes=tmp_path / "notes", stop_at=None)


def two(one):
    return [one.prompt] * 2


def asked_for(ask, items, count, **settings):
    """The first `count` drawn items, and the sizes of the groups that were drawn for them."""
    before = len(stages(ask))
    drawn = ask.draw(items, lambda one: [one.prompt], label="t", **settings)
    found = [next(drawn) for _ in range(count)]
    return found, [len(rows) for rows in stages(ask)[before:]]


def stages(ask):
    """The replies of each group of the store, oldest first."""
    manifests = sorted(Path(ask.store.dir).glob("replies/*/manifest.json"), key=lambda file: file.stat().st_mtime_ns)
    return [json.loads(file.read_text())["facts"]["rows"] for file in manifests]


def test_passes_have_other_replies_and_share_groups(bound):
    """Three items twice: 4 + 2 replies. Every reply is that of a pass by itself; the item's sample is the pass."""
    ask = bound()
    found, sizes = asked_for(ask, LOG[:3], 6, rounds=2)
    assert [one.id for one, _ in found] == ["r0", "r1", "r2"] * 2 and sizes == [4, 2]
    once = list(bound("another").draw(LOG[:3], two, label="t"))
    assert [reply.text for _, (reply,) in found] == [replies[k].text for k in (0, 1) for _, replies in once]


def test_no_more_is_drawn_than_the_missing_examples_probably_need(bound, monkeypatch):
    """An eighth more than what is missing, in groups of at most 4, and at least LEAST; then what is missing by then."""
    monkeypatch.setattr(engine, "LEAST", 2)
    ask = bound()
    ask.missing = 5
    found, sizes = asked_for(ask, LOG, 5, rounds=4)
    assert len(found) == 5 and sizes == [4, 2]  # 5 * 9/8, rounded up

    ask = bound("another")
    ask.missing = 3
    drawn = ask.draw(LOG, lambda one: [one.prompt], label="t", rounds=4)
    assert [next(drawn)[0].id for _ in range(4)] == ["r0", "r1", "r2", "r3"] and [*map(len, stages(ask))] == [4]
    ask.missing = 1
    assert next(drawn)[0].id == "r4" and [*map(len, stages(ask))] == [4, 2]

    ask = bound("all")
    assert asked_for(ask, LOG, 1)[1] == [4], "a group at a time where everything is wanted"


def test_one_model_is_open_at_a_time(bound, reading, tmp_path):
    """Five records, two replies each; both sampler (of four replies) and judge work on two records at once. Then log-probs."""
    with bound() as ask:
        judged = list(ask.judge(reading, ask.draw(LOG, two, label="t"), label="t"))
        ask.logprobs([(one.prompt, "Good", True) for one in LOG], of="policy", label="t")
        moves = [line for line in (tmp_path / "notes").read_text().splitlines() if line.startswith(("open", "close"))]
    assert moves == ["open sampler", "close sampler", "open judge", "close judge"] * 3
    assert [(one.id, len(replies), len(scores)) for one, replies, scores in judged] == [(one.id, 2, 2) for one in LOG]
    found = list(ask.judge(reading, ask.draw(LOG, two, label="t"), label="t"))
    assert found == judged and (tmp_path / "notes").read_text().count("open") == 6  # all of it is in the store


def test_a_judge_that_loads_nothing_leaves_the_model_open(bound, tmp_path):
    """It would be loaded anew for every group of the judge otherwise."""
    drawn = Verifier(noise=0.5, seed=0, group_size=2)
    log = [replace(one, truth={"request": "a_long_word", "topic": "tea"}) for one in LOG]
    with bound() as ask:
        judged = list(ask.judge(drawn, ask.draw(log, two, label="t"), label="t"))
        assert len(judged) == 5 and [stage.name for stage in ask.store.log][:3] == ["replies", "judge", "replies"]
    assert (tmp_path / "notes").read_text().splitlines() == ["open sampler", "close sampler"]


def test_a_judge_that_is_stopped_in_the_middle_scores_nothing_twice(bound, reading, tmp_path):
    """Groups of two: it stops at the fourth record, so the third is asked once more, and no other."""
    drawn = [(one, [Reply(text=text, num_tokens=2, ended=True) for text in ("a", "bc")]) for one in LOG]
    with bound() as ask, pytest.raises(UserError, match="The budget is spent"):
        list(ask.judge(replace(reading, stop_at="r3"), drawn, label="t"))
    with bound() as ask:
        judged = [scores for *_, scores in ask.judge(reading, drawn, label="t")]
    asked = [line for line in (tmp_path / "notes").read_text().splitlines() if line.startswith("r")]
    first, again = (
        [f"r{i} {text}" for i in (0, 1, 2) for text in ("a", "bc")],
        [f"r{i} {t}" for i in (2, 3, 4) for t in ("a", "bc")],
    )
    assert asked == first + again
    with bound("other") as ask:
        assert judged == [scores for *_, scores in ask.judge(replace(reading, group_size=5), drawn, label="t")]


@pytest.mark.parametrize(("score", "error"), [(math.nan, UserError), (None, AssertionError)])
def test_nan_or_missing_scores_never_become_a_stage(bound, score, error, tmp_path):
    with bound() as ask, pytest.raises(error):
        list(ask.judge(Broken(score=score), [(LOG[0], [Reply(text="a", num_tokens=1, ended=True)])], label="t"))
    assert not list((tmp_path / "store").glob("judge/*/manifest.json"))


def test_an_item_with_a_reply_that_the_judge_can_not_score_is_skipped_and_counted(bound):
    said = [("a", "bc"), ("", "b"), ("abc", "")]
    drawn = [
        (one, [Reply(text=text, num_tokens=1, ended=True) for text in texts]) for one, texts in zip(LOG[:3], said, strict=True)
    ]
    for _ in range(2):  # the second time from the store
        with bound() as ask:
            assert [(one.id, scores) for one, _, scores in ask.judge(Choosy(), drawn, label="t")] == [(LOG[0].id, [1.0, 2.0])]
            assert ask.drawn["unjudged"] == 2


def test_log_probs_are_those_of_the_chosen_model_in_any_grouping(bound, tiny, qwen2, monkeypatch):
    """Against the sum over whole logits. A reply without a token has none; one of two sequences a group is the same."""
    texts = [(one.prompt, "Good" * (1 + i % 2), i % 3 > 0) for i, one in enumerate(LOG)] + [(LOG[0].prompt, "", False)]
    with bound() as ask:
        found = {of: ask.logprobs(texts, of=of, label="t") for of in ("policy", "start")}
        assert [stage.name for stage in ask.store.log] == ["logprobs"] * 2
    for of, directory in (("policy", tiny), ("start", qwen2)):
        expected = [plain(directory, prompt, text, ended) for prompt, text, ended in texts[:-1]]
        assert [one.nats for one in found[of][:-1]] == pytest.approx(expected, abs=1e-4) and found[of][-1] is None
        assert [one.num_tokens for one in found[of][:-1]] == [len(text) + ended for _, text, ended in texts[:-1]]
    monkeypatch.setattr(engine, "SEQUENCES", 2)
    with bound() as ask:
        again = ask.logprobs(texts, of="policy", label="t")
        assert [one.nats for one in again[:-1]] == pytest.approx([one.nats for one in found["policy"][:-1]], abs=1e-5)
        assert ask.logprobs(texts, of="policy", label="t") == again
        assert [stage.hit for stage in ask.store.log] == [False] * 3 + [True] * 3
        manifest = json.loads((ask.store.log[0].path / "manifest.json").read_text())
        assert len(manifest["facts"]["nats"]) == 2 and list(manifest["files"]) == []


def test_nested_progress_bars_are_shown_as_lines(monkeypatch, capsys):
    """As a judge's is inside the sampler's; rich allows one live display."""
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    with Progress("outer", total=2, unit="x") as outer:
        with Progress("inner", total=1, unit="x") as inner:
            assert outer.bar is not None and inner.bar is None
        outer.advance(1)
    with Progress("next", total=1, unit="x") as following:
        assert following.bar is not None
