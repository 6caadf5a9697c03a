"""filters.judge keeps a fresh chosen reply only if the judge prefers it to the disliked one; its verdicts are stages."""

from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from drift.engine.ask import Ask
from drift.examples.filters import Filters
from drift.records import Labelled, Record, Reply, example, fresh, logged
from drift.store import Store


@dataclass(frozen=True, kw_only=True)
class Said:
    """Scores a reply by the number that it ends with; one that ends with a word has no score. Notes what it is asked. If it
    `compares`, a score is the number of the item's other replies that are worth less."""

    notes: str
    group_size: int
    compares: bool = False

    needs_truth = False
    label = "said"

    def key(self):
        return {}

    @contextmanager
    def open(self):
        def grade(groups):
            with open(self.notes, "a") as file:
                file.writelines(f"{record.id}: {', '.join(reply.text for reply in replies)}\n" for record, replies in groups)
            worth = [[number(reply.text) for reply in replies] for _, replies in groups]
            return [[float(sum(one > other for other in item)) for one in item] for item in worth] if self.compares else worth

        yield grade


def number(text):
    last = text.split()[-1]
    return float(last) if last.isdigit() else None


@pytest.fixture
def ask(tmp_path):
    unused = {"sampler": None, "compute": None, "start": None, "policy": None}
    return Ask(store=store(tmp_path), seed=0, purpose="pairs", iteration=1, **unused)


def store(folder):
    return Store(dir=str(folder / "store"), strict=False, verify=False, lease_seconds=60.0, keep_policies="all")


def record(i, label="dsat", score=5):
    prompt = [{"role": "user", "content": f"Question {i}?"}]
    return Record(
        id=f"r{i}", conversation=f"c{i}", prompt=prompt, reply=f"Worth {score}", label=label, ended=True, feedback=None,
        revised=None, satisfied=False, truth=None, provenance=None,
    )  # fmt: skip


def drift(one, *texts):
    """An example of a disliked reply and fresh ones, as DRIFT makes them."""
    replies = [fresh(Reply(text=text, num_tokens=2, ended=True), good=True) for text in texts]
    return example(one, *replies, logged(one, good=False))


def take(ask, tokenizer, candidates, records, *, limit=None, notes="", group_size=3, compares=False):
    judge = Said(notes=notes, group_size=group_size, compares=compares)
    filters = Filters(copied_words=9, truncated="keep", echo="keep", judge=judge)
    examples, counts = filters.take(iter(candidates), limit, tokenizer, 512, ask=ask, records=records)
    return examples, {name: count for name, count in counts.items() if count}


def test_exactly_the_losers_are_dropped(ask, tokenizer, tmp_path):
    """The disliked replies are worth 5. A tie is no preference; what the judge can't score, and what another rule drops, is
    counted by name; the judge is asked in its groups, of what the other rules left."""
    records = [record(i) for i in range(7)]
    replies = ["It is worth 6", "It is worth 4", "", "It is worth 5", "It is worth nothing", "It is worth 9", "It is worth 1"]
    candidates = [drift(one, text) for one, text in zip(records, replies, strict=True)]
    notes = str(tmp_path / "notes")
    examples, counts = take(ask, tokenizer, candidates, records, notes=notes)
    assert [one.replies[0].text for one in examples] == ["It is worth 6", "It is worth 9"] and examples[0] == candidates[0]
    assert counts == {"seen": 7, "used": 2, "empty": 1, "disfavoured": 3, "unjudged": 1} and ask.drawn["unjudged"] == 1
    asked = open(notes).read().splitlines()
    assert asked == [f"{one.id}: {text}, Worth 5" for one, text in zip(records, replies, strict=True) if text]
    assert [stage.name for stage in ask.store.log] == ["judge"] * 3
    assert take(ask, tokenizer, candidates, records, notes=notes) == (examples, counts)
    assert len(open(notes).read().splitlines()) == 6  # the second time, every verdict was in the store


@pytest.mark.parametrize("compares", [False, True])
def test_of_several_fresh_replies_those_that_lose_are_taken_out(compares, ask, tokenizer, tmp_path):
    """Each is compared with the disliked one and not with the others: what they win or lose among themselves does not count."""
    one, two, notes = record(0), record(1), tmp_path / "notes"
    candidates = [drift(one, "It is worth 7", "It is worth 2", "It is worth 6"), drift(two, "It is worth 1", "It is worth 2")]
    (left,), counts = take(ask, tokenizer, candidates, [one, two], notes=str(notes), compares=compares)
    assert [reply.text for reply in left.replies] == ["It is worth 7", "It is worth 6", "Worth 5"]
    assert counts == {"seen": 2, "used": 1, "disfavoured": 1, "thinned": 1}
    assert sorted(notes.read_text().splitlines()) == [f"r0: It is worth {n}, Worth 5" for n in (2, 6, 7)] + [
        f"r1: It is worth {n}, Worth 5" for n in (1, 2)
    ]


def test_examples_without_a_disliked_reply_or_a_fresh_chosen_one_are_not_judged(ask, tokenizer, tmp_path):
    """SPIN's chosen reply is a logged one, the warm start has no fresh reply, and nobody complained to the third."""
    liked, disliked = record(0, "sat", 1), record(1)
    rejected = fresh(Reply(text="It is worth 9", num_tokens=2, ended=True), good=False)
    later = Labelled(text="It is worth 3", ended=True, fresh=False, good=True)
    candidates = [
        example(liked, logged(liked, good=True), rejected),
        example(disliked, later, logged(disliked, good=False)),
        drift(liked, "It is worth 0"),
    ]
    examples, counts = take(ask, tokenizer, candidates, [liked, disliked], notes=str(tmp_path / "notes"))
    assert examples == candidates and counts == {"seen": 3, "used": 3} and not (tmp_path / "notes").exists()


def test_no_more_is_taken_than_a_group_of_the_judge(ask, tokenizer, tmp_path):
    records = [record(i) for i in range(9)]
    candidates = iter([drift(one, "It is worth 8") for one in records])
    filters = Filters(copied_words=9, truncated="keep", echo="keep", judge=Said(notes=str(tmp_path / "notes"), group_size=3))
    examples, counts = filters.take(candidates, 4, tokenizer, 512, ask=ask, records=records)
    assert len(examples) == counts["seen"] == counts["used"] == 4 and len(list(candidates)) == 3
