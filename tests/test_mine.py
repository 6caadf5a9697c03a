"""The miner: each step alone, and what the cascade hands from one to the next."""

import json
import os
import random
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path
from socket import socket
from urllib.request import urlopen

import pytest
from conftest import ROOT, compose
from hydra.utils import instantiate
from judge_server import Server, endpoint

from drift.config import build
from drift.engine.endpoint import Endpoint
from drift.errors import UserError
from drift.intake import mined
from drift.mine import classifier, features, rules
from drift.mine.cascade import Cascade, parse_answer
from drift.mine.classifier import Classifier
from drift.mine.unread import UNREAD

REQUEST, REPLY = "Tell me about tea.", "Tea is a warm drink made of leaves."
CASES = [
    ("No, that's wrong. It was 1871.", "dsat", "factual"),
    ("you forgot the second part", "dsat", "ignored"),
    ("I asked for two sentences", "dsat", "ignored"),
    ("it still doesn't work", "dsat", "not_working"),
    ("Traceback (most recent call last): File x", "dsat", "not_working"),
    ("make it shorter", "dsat", "style"),
    ("more detail please", "dsat", "detail"),
    ("please try again", "dsat", "revision"),
    ("Thanks! Now what about cats?", "sat", None),
    ("perfect", "sat", None),
    ("Great! But you forgot the milk", "both", "ignored"),
    ("Thanks but can you make sure that these are real words", "none", None),
    ("Not very good.", "dsat", "quality"),
    ("useless answer", "dsat", "quality"),
    ("not accurate", "dsat", "factual"),
    ("Good, but too long", "both", "style"),
    ("thanks for nothing", "both", "negative"),
    ("👎", "dsat", "negative"),
    ("👍🏽", "sat", None),
    ("very helpful!", "sat", None),
    ("Not good at maths, can you explain?", "none", None),
    ("What is wrong with my car?", "none", None),
    ("How do I make it more useful?", "none", None),
    ("sorry, I meant the other file", "none", None),
    ("continue", "none", None),
    ("translate it to French", "none", None),
    ("that's wrong " + "word " * 300, "none", None),
]


@pytest.mark.parametrize(("said", "label", "category"), CASES)
def test_the_rules(said, label, category):
    found = rules.opinion(REQUEST, REPLY, said)
    assert (found.label, found.category) == (label, category)
    assert found.evidence is None if label == "none" else found.evidence.lower() in said.lower()


def test_the_request_sent_again_is_a_revision_unless_it_carries_something_on():
    asked = "Write me a short poem about green tea"
    assert rules.opinion(asked, REPLY, "write me a short poem about GREEN tea!").category == "revision"
    assert rules.opinion("please continue with the list of teas", REPLY, "please continue with the list of teas").label == "none"


def test_every_reply_that_a_user_turn_follows_is_classified_with_or_without_a_system_message():
    turns = ["Hi", "Yo", "thanks", "Welcome", "that is wrong", "Oh"]
    messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(turns)]
    plain, with_system = rules.Rules().classify([messages, [{"role": "system", "content": "x"}, *messages]])
    assert {i: v.label for i, v in plain.items()} == {1: "sat", 3: "dsat"}
    assert {i: v.label for i, v in with_system.items()} == {2: "sat", 4: "dsat"}


@pytest.mark.slow
def test_every_match_of_a_rule_contains_one_of_its_traces():
    """Over the real turns: no complaint is missed because none of its traces is there."""
    from drift.data.sharegpt import ShareGpt
    from drift.intake.conversations import Conversation

    source = ShareGpt(path=None, ignore_fields=[])
    talks = (item for file in source.files() for item in source.conversations(file) if isinstance(item, Conversation))
    turns = [rules.turn(talk.messages, i)[2] for talk in islice(talks, 6000) for i in rules.replies(talk.messages)]
    starts = [rules.plain(" ".join(said.split()[: rules.FIRST])).lower() for said in turns]
    hits = [(name, start) for start in starts for name, pattern in rules.COMPLAINTS.items() if pattern.search(start)]
    assert len(hits) > 200
    assert [(name, start) for name, start in hits if not any(trace in start for trace in rules.TRACES[name])] == []


def test_a_word_is_found_as_if_the_text_were_split():
    rng = random.Random(0)
    for _ in range(3000):
        text = "".join(rng.choices("aab_ é?!.-1", k=rng.randrange(12)))
        word = rng.choice(["a", "aa", "ab", "é", "_", "1", "?", "!", "ba"])
        assert features.contains_word(text, word) == (word in features.WORD.findall(text)), (text, word)


MINER = Classifier(dsat_threshold=0.5, sat_threshold=0.5)


def conversation(said):
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate((REQUEST, REPLY, said))]


def judged(*said, miner=MINER):
    return [opinions[1] for opinions in miner.classify([conversation(text) for text in said])]


@pytest.mark.parametrize("said", ["useless", "Wrong answer.", "wrong", "👎", "this  is wrong", "Terrible", "not helpful", "wtf"])
def test_a_verdict_and_nothing_else_is_read_by_the_rules(said):
    """The classifier alone finds no opinion in any of them: turns of a word or two were rare among those that it was fitted on."""
    shipped = Classifier(dsat_threshold=0.68, sat_threshold=0.4)
    (scores,) = classifier.probabilities([features.Reading((REQUEST, REPLY, said))])
    assert scores["dsat"] < 0.68 and scores["sat"] < 0.4
    (found,) = shipped.classify([conversation(said)])
    assert (found[1].label, found[1].detector) == ("dsat", "rules")


@pytest.mark.parametrize(
    ("reply", "said"),
    [(REPLY, "useless facts about cats"), (REPLY, "more questions"), (REPLY, "shorter"), ("True or false: tea is blue?", "false")],
)
def test_words_of_a_verdict_inside_more_words_wishes_and_answers_are_left_to_the_classifier(reply, said):
    assert not classifier.is_verdict(features.Reading((REQUEST, reply, said)))


def test_the_classifier_finds_complaints_and_praise_with_evidence():
    bad, good, neither = judged(
        "No, you didn't answer my question. I asked about green tea.", "wow, amazing, thank you so much", "continue"
    )
    assert (bad.label, good.label, neither.label) == ("dsat", "sat", "none")
    assert bad.category == "ignored" and bad.evidence and good.evidence and neither.evidence is None
    assert bad.confidence > 0.7 and good.confidence > 0.9 and neither.confidence > 0.8


def test_praise_that_is_denied_or_taken_back_is_no_praise():
    """The classifier alone takes each for praise: it counts words."""
    said = ["Not great", "not very good", "no good", "thanks for nothing", "That was not great.", "good, but I wanted a poem"]
    lenient = Classifier(dsat_threshold=0.68, sat_threshold=0.4)
    assert [opinion.label for opinion in judged(*said, miner=lenient)] == ["dsat", "dsat", "dsat", "both", "dsat", "none"]
    scores = classifier.probabilities([features.Reading((REQUEST, REPLY, text)) for text in said])
    assert all(score["sat"] >= 0.4 and score["dsat"] < 0.68 for score in scores)


def test_thresholds_change_labels_and_batches_do_not():
    texts = [said for said, _, _ in CASES]
    lenient, strict = (Classifier(dsat_threshold=t, sat_threshold=t) for t in (0.05, 0.95))
    counts = [sum(v.label != "none" for v in judged(*texts, miner=miner)) for miner in (lenient, MINER, strict)]
    assert counts[0] > counts[1] > counts[2]
    together = judged(*texts)
    assert together == [judged(text)[0] for text in texts]


def test_the_shipped_weights_are_small_and_hold_no_text():
    assert classifier.FILE.stat().st_size < 2 * 2**20
    fitted = classifier.weights()
    assert fitted["weights"].shape == (len(classifier.HEADS), len(fitted["columns"]))
    assert fitted["columns"].max() == features.HASHES + len(features.FACTS) - 1


def test_labels_hold_no_text_and_half_of_the_drawn_ones_is_held_out():
    rows = [json.loads(line) for line in (ROOT / "experiments/miner/labels.jsonl").read_text().splitlines()]
    assert {tuple(row) for row in rows} == {("conversation", "turn", "part", "stratum", "readings", "label", "category")}
    drawn = [row for row in rows if row["part"] != "fit"]
    assert len(drawn) == 1200 and sum(row["part"] == "held_out" for row in drawn) == 600
    assert all(len(row["readings"]) >= 2 for row in drawn)
    assert len({(row["conversation"], row["turn"]) for row in rows}) == len(rows)


def test_a_missing_key_is_named(monkeypatch):
    monkeypatch.delenv("SOME_KEY", raising=False)
    with pytest.raises(UserError, match="environment variable SOME_KEY, which is not set"):
        build(compose("data=messages", f"data.path={ROOT}/experiments/miner/labels.jsonl", "mine=cascade", "mine.endpoint.url=http://127.0.0.1:1/v1",
                      "mine.endpoint.model=m", "mine.endpoint.key_variable=SOME_KEY"))  # fmt: skip


def cascade(judge, *, unsure=0.0, without_answer="stop"):
    miner = Classifier(dsat_threshold=0.5, sat_threshold=0.5)
    return Cascade(classifier=miner, endpoint=judge, unsure=unsure, without_answer=without_answer)


def test_the_cascade_asks_the_llm_about_uncertain_turns_only(tmp_path):
    texts = ["Perfect, thank you!", "continue", "hmm, it reads a bit stiff though"]
    sure = judged(*texts)
    with Server() as server:
        miner = cascade(endpoint(server, tmp_path), unsure=0.02)
        found = judged(*texts, miner=miner)
        uncertain = [v.label == "none" and 1 - v.confidence >= 0.02 for v in sure]
        assert server.served == sum(uncertain) and uncertain[2] and not uncertain[0]
    assert (found[2].label, found[2].category, found[2].detector) == ("dsat", "style", "judge")
    assert found[0] == sure[0]


@pytest.mark.slow
@pytest.mark.peer
def test_the_llm_may_be_a_real_server(tiny, tmp_path):
    """`transformers serve` with random weights: its answers are no verdicts, but they are answers, and are kept."""
    with socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    transformers = Path(sys.executable).with_name("transformers")
    serve = [transformers, "serve", str(tiny), "--device", "cpu", "--host", "127.0.0.1", "--port", str(port)]
    with open(tmp_path / "log", "w") as log:
        server = subprocess.Popen(serve, stdout=log, stderr=log, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    try:
        wait_until_healthy(server, port, tmp_path / "log")
        judge = Endpoint(
            url=f"http://127.0.0.1:{port}/v1", key_variable=None, model=str(tiny), answers_as=None,
            concurrency=2, timeout_seconds=60.0, retries=2, fields={}, dollars_per_million_input=1.0,
            dollars_per_million_output=1.0, max_dollars=1.0, cache_dir=str(tmp_path / "cache"),
        )  # fmt: skip
        texts = ["hmm, it reads a bit stiff though", "and the other one, I guess"]
        miner = cascade(judge)
        found = judged(*texts, miner=miner)
        assert miner.counts == {"replies that the LLM was asked about": 2, "LLM answers that could not be read": 2}
    finally:
        server.kill()
        server.wait()
    assert len(list((tmp_path / "cache").iterdir())) == 2
    assert judged(*texts, miner=cascade(judge)) == found  # the server is gone


def wait_until_healthy(server, port, log):
    for _ in range(240):
        assert server.poll() is None, log.read_text()
        try:
            if urlopen(f"http://127.0.0.1:{port}/health", timeout=2).status == 200:
                return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(log.read_text())


@pytest.mark.parametrize(("answer", "expected"), [
    ("DSAT factual 0.8", ("dsat", "factual", 0.8)), ("sat - 1", ("sat", None, 1.0)), ("dsat", ("dsat", None, 0.5)),
    ("sat", ("sat", None, 0.5)), ("none", ("none", None, 0.5)), ("dsat style 9/10", ("dsat", "style", 0.9)),
    ("dsat style 90%", ("dsat", "style", 0.9)), ("sat 90 %", ("sat", None, 0.9)), ("dsat, style, 0,9", ("dsat", "style", 0.9)),
    ("**DSAT** not_working .75.", ("dsat", "not_working", 0.75)), ("dsat tone 0.8", ("dsat", None, 0.8)),
    ("Label: both\nCategory: detail\nConfidence: 3 / 4", ("both", "detail", 0.75)), ("sat style 0.8", ("sat", None, 0.8)),
    ("dsat style 0.9 because it is stiff", ("dsat", "style", 0.9)),
    *((text, None) for text in ("", "no idea", "90%", "dsat nonsense", "dsat style high", "dsat style 9", "dsat style 1.5",
      "dsat style 11/10", "dsat style -0.9", "none of these", "It is not dsat.", "The user is content: sat 0.9", "sat down")),
])  # fmt: skip
def test_the_llms_answer_is_parsed_strictly(answer, expected):
    found = parse_answer(answer)
    assert (found and (found.label, found.category, found.confidence)) == expected


def test_llm_answers_without_a_text_stop_the_miner_or_are_counted(tmp_path):
    texts = ["hmm, it reads a bit stiff though", "and the other one, I guess"]
    with Server(says=lambda said: "dsat style 0.9" if "stiff" in said else None) as server:
        with pytest.raises(UserError, match="1 of 2 questions got an answer without a text.*mine.without_answer=keep"):
            judged(*texts, miner=cascade(endpoint(server, tmp_path)))
        lenient = cascade(endpoint(server, tmp_path), without_answer="keep")
        found = judged(*texts, miner=lenient)
    assert [opinion.detector for opinion in found] == ["judge", "classifier"]
    assert lenient.counts["LLM answers without a text"] == 1
    assert lenient.key() != cascade(endpoint(server, tmp_path)).key()


def test_a_log_that_is_dearer_than_the_cap_gives_no_records_until_the_cap_is_raised(tmp_path):
    """40 turns at a dollar each. 13 are paid for, and nothing is written; then the others, with a higher cap."""
    talks = [conversation(f"hmm, number {i} reads a bit stiff though") for i in range(40)]
    rows = [{"messages": [{"role": "user", "content": f"Question {i}?"}, *talk[1:]]} for i, talk in enumerate(talks)]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def mine_with(dollars):
        settings = ["data=messages", f"data.path={tmp_path}/log.jsonl", "mine=cascade", "intake.near_duplicates=null"]
        run = build(compose(*settings, "mine.unsure=0.0", "mine.endpoint.model=m", "mine.endpoint.key_variable=null",
                            f"mine.endpoint.url=http://127.0.0.1:{server.server_port}/v1", f"mine.endpoint.max_dollars={dollars}",
                            "mine.endpoint.dollars_per_million_input=1", f"mine.endpoint.cache_dir={tmp_path}/cache"))  # fmt: skip
        mined.mine(run, tmp_path / "records.jsonl", overwrite=False)

    with Server() as server:
        with pytest.raises(UserError, match="max_dollars=13, .* 13 of the 40 questions"):
            mine_with(13)
        assert not (tmp_path / "records.jsonl").exists() and server.served == 13
        mine_with(41)
        assert server.served == 40 and len((tmp_path / "records.jsonl").read_text().splitlines()) == 40


@pytest.mark.parametrize("miner", [rules.Rules(), MINER], ids=["rules", "classifier"])
def test_conversations_in_languages_that_the_miner_cannot_read_are_counted_by_language(miner):
    miner.counts.clear()
    english = ["That's wrong.", "thanks", "no", "make it shorter", "SELECT * FROM users WHERE id = 1", "12 + 3 = ?", "🙂"]
    other = {
        "de": ["Nein, das ist falsch.", "Zu lang, bitte kürzer."], "fr": ["Non, c'est faux."], "es": ["No, eso está mal."],
        "ja": ["違います。間違っています。"], "zh": ["不对，这是错的。"], "ar": ["لا، هذا خطأ."], "ru": ["Нет, это неправильно."],
    }  # fmt: skip
    miner.classify([conversation(text) for text in english + sum(other.values(), [])])
    assert miner.counts == {f"{UNREAD}{code}": len(texts) for code, texts in other.items()}


def test_mine_options_compose():
    for option in ("rules", "classifier"):
        assert instantiate(compose(f"mine={option}").mine).key()["miner"] == option


def test_precision_was_measured_at_the_thresholds_that_ship():
    shipped = compose("mine=classifier").mine
    assert classifier.MEASURED_FROM == {"dsat": shipped.dsat_threshold, "sat": shipped.sat_threshold}
