"""The miner: each step alone, and what the cascade hands from one to the next."""

import json
import os
import random
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from socket import socket
from urllib.request import urlopen

import pytest
from conftest import ROOT, compose
from hydra.utils import instantiate

from drift.config import build
from drift.endpoint import Endpoint
from drift.errors import UserError
from drift.mine import classifier, features, rules
from drift.mine.cascade import Cascade, question, read
from drift.mine.classifier import Classifier

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
    ("What is wrong with my car?", "none", None),
    ("How do I make it more useful?", "none", None),
    ("sorry, I meant the other file", "none", None),
    ("continue", "none", None),
    ("translate it to French", "none", None),
    ("that's wrong " + "word " * 300, "none", None),
]


@pytest.mark.parametrize(("said", "label", "category"), CASES)
def test_the_rules(said, label, category):
    found = rules.verdict(REQUEST, REPLY, said)
    assert (found.label, found.category) == (label, category)
    assert found.evidence is None if label == "none" else found.evidence.lower() in said.lower()


def test_the_request_sent_again_is_a_revision_unless_it_carries_something_on():
    asked = "Write me a short poem about green tea"
    assert rules.verdict(asked, REPLY, "write me a short poem about GREEN tea!").category == "revision"
    assert rules.verdict("please continue with the list of teas", REPLY, "please continue with the list of teas").label == "none"


def test_every_reply_that_a_user_turn_follows_is_judged_system_message_or_not():
    turns = ["Hi", "Yo", "thanks", "Welcome", "that is wrong", "Oh"]
    messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(turns)]
    plain, with_system = rules.Rules().judge([messages, [{"role": "system", "content": "x"}, *messages]])
    assert {i: v.label for i, v in plain.items()} == {1: "sat", 3: "dsat"}
    assert {i: v.label for i, v in with_system.items()} == {2: "sat", 4: "dsat"}


def test_what_is_looked_for_first_is_in_whatever_a_rule_finds():
    """Over the real turns: no complaint is missed because none of its traces is there."""
    from drift.data.conversations import Conversation
    from drift.data.sharegpt import ShareGpt

    source = ShareGpt(path=None, ignore_fields=[])
    talks = (item for file in source.files() for item in source.conversations(file) if isinstance(item, Conversation))
    turns = [rules.turn(talk.messages, i)[2] for talk in islice(talks, 6000) for i in rules.replies(talk.messages)]
    starts = [rules.plain(" ".join(said.split()[: rules.FIRST])).lower() for said in turns]
    hits = [(name, start) for start in starts for name, pattern in rules.COMPLAINTS.items() if pattern.search(start)]
    assert len(hits) > 200
    assert [(name, start) for name, start in hits if not any(trace in start for trace in rules.TRACES[name])] == []


def test_a_word_is_found_in_a_text_as_if_the_text_were_taken_apart():
    rng = random.Random(0)
    for _ in range(3000):
        text = "".join(rng.choices("aab_ é?!.-1", k=rng.randrange(12)))
        word = rng.choice(["a", "aa", "ab", "é", "_", "1", "?", "!", "ba"])
        assert features.holds(text, word) == (word in features.WORD.findall(text)), (text, word)


MINER = Classifier(dsat_threshold=0.5, sat_threshold=0.5)


def judged(*said, miner=MINER):
    conversations = [
        [{"role": "user", "content": REQUEST}, {"role": "assistant", "content": REPLY}, {"role": "user", "content": text}]
        for text in said
    ]
    return [verdicts[1] for verdicts in miner.judge(conversations)]


def test_the_classifier_tells_complaints_and_praise_from_the_rest_and_says_why():
    bad, good, neither = judged(
        "No, you didn't answer my question. I asked about green tea.", "wow, amazing, thank you so much", "continue"
    )
    assert (bad.label, good.label, neither.label) == ("dsat", "sat", "none")
    assert bad.category == "ignored" and bad.evidence and good.evidence and neither.evidence is None
    assert bad.confidence > 0.7 and good.confidence > 0.9 and neither.confidence > 0.8


def test_thresholds_and_batches_do_what_they_say():
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


class Server(ThreadingHTTPServer):
    """An OpenAI-compatible server on a free port that answers by a rule, fails as it is told, and counts."""

    def __init__(self, *, fail_first=0, refuse=False, slow=0.0):
        super().__init__(("127.0.0.1", 0), Handler)
        self.fail_first, self.refuse, self.slow, self.served, self.busy, self.most, self.lock = (
            fail_first,
            refuse,
            slow,
            0,
            0,
            0,
            threading.Lock(),
        )

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error):
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *arguments):
        pass

    def do_POST(self):
        server, body = self.server, json.loads(self.rfile.read(int(self.headers["content-length"])))
        with server.lock:
            server.served += 1
            server.busy += 1
            server.most = max(server.most, server.busy)
            number = server.served
        time.sleep(server.slow)
        with server.lock:
            server.busy -= 1
        if server.refuse or number <= server.fail_first:
            status, answer = (
                (401, {"error": {"message": "no such key"}}) if server.refuse else ((429, 500, 503)[number % 3], {"error": {}})
            )
        else:
            said = body["messages"][0]["content"].split("<next_turn>")[1]
            text = "dsat style 0.9" if "stiff" in said else "I can't say"
            choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
            usage = {"prompt_tokens": 1_000_000, "completion_tokens": 0, "total_tokens": 1_000_000}
            status, answer = (
                200,
                {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage},
            )
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.send_header("retry-after-ms", "1")
        self.end_headers()
        self.wfile.write(data)


def endpoint(server, folder, **settings):
    plain = {"key_variable": None, "model": "m", "concurrency": 3, "timeout_seconds": 5.0, "retries": 5, "max_dollars": 100.0}
    prices = {"dollars_per_million_input": 1.0, "dollars_per_million_output": 0.0}
    return Endpoint(url=f"http://127.0.0.1:{server.server_port}/v1", cache_dir=str(folder), **plain | prices | settings)


def asked(which, texts):
    return which.ask([question((REQUEST, REPLY, text)) for text in texts], lambda count: None, temperature=0.0)


def test_failures_that_pass_are_retried_and_answers_never_asked_for_twice(tmp_path):
    texts = [f"a stiff text {i}" for i in range(6)]
    with Server(fail_first=4, slow=0.02) as server:
        first = asked(endpoint(server, tmp_path), texts)
        assert first == ["dsat style 0.9"] * 6 and server.served == 10 and 1 < server.most <= 3
        assert asked(endpoint(server, tmp_path), texts) == first and server.served == 10
        asked(endpoint(server, tmp_path, model="other"), texts[:1])
        assert server.served == 11


def test_spending_stops_at_the_cap(tmp_path):
    with Server() as server:
        answers = asked(endpoint(server, tmp_path, concurrency=1, max_dollars=2.5), [f"a stiff text {i}" for i in range(6)])
        assert server.served == 3 and answers == ["dsat style 0.9"] * 3 + [None] * 3


def test_a_refusal_names_the_server_and_keeps_what_was_answered(tmp_path):
    with Server(refuse=True) as server, pytest.raises(UserError, match=r"127.0.0.1.*no such key.*give the same command again"):
        asked(endpoint(server, tmp_path), ["x"])


def test_a_missing_key_is_named(monkeypatch):
    monkeypatch.delenv("SOME_KEY", raising=False)
    with pytest.raises(UserError, match="environment variable SOME_KEY, which is not set"):
        build(compose("data=messages", f"data.path={ROOT}/experiments/miner/labels.jsonl", "mine=cascade", "mine.endpoint.url=http://127.0.0.1:1/v1",
                      "mine.endpoint.model=m", "mine.endpoint.key_variable=SOME_KEY"))  # fmt: skip


def test_the_cascade_asks_the_judge_about_uncertain_turns_only(tmp_path):
    texts = ["Perfect, thank you!", "continue", "hmm, it reads a bit stiff though"]
    sure = judged(*texts)
    with Server() as server:
        miner = Cascade(classifier=MINER, endpoint=endpoint(server, tmp_path), unsure=0.02)
        found = judged(*texts, miner=miner)
        uncertain = [v.label == "none" and 1 - v.confidence >= 0.02 for v in sure]
        assert server.served == sum(uncertain) and uncertain[2] and not uncertain[0]
    assert (found[2].label, found[2].category, found[2].detector) == ("dsat", "style", "judge")
    assert found[0] == sure[0]


def test_the_judge_may_be_a_real_server(tiny, tmp_path):
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
            url=f"http://127.0.0.1:{port}/v1", key_variable=None, model=str(tiny), concurrency=2, timeout_seconds=60.0, retries=2,
            dollars_per_million_input=1.0, dollars_per_million_output=1.0, max_dollars=1.0, cache_dir=str(tmp_path / "cache"),
        )  # fmt: skip
        texts = ["hmm, it reads a bit stiff though", "and the other one, I guess"]
        found = judged(*texts, miner=Cascade(classifier=MINER, endpoint=judge, unsure=0.0))
        assert [verdict.detector for verdict in found] == ["judge"] * 2
    finally:
        server.kill()
        server.wait()
    assert len(list((tmp_path / "cache").iterdir())) == 2
    assert judged(*texts, miner=Cascade(classifier=MINER, endpoint=judge, unsure=0.0)) == found  # the server is gone


def wait_until_healthy(server, port, log):
    for _ in range(240):
        assert server.poll() is None, log.read_text()
        try:
            if urlopen(f"http://127.0.0.1:{port}/health", timeout=2).status == 200:
                return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(log.read_text())


def test_the_judges_line_is_read_and_anything_else_is_none():
    assert (read("DSAT factual 0.8").label, read("DSAT factual 0.8").category, read("DSAT factual 0.8").confidence) == (
        "dsat",
        "factual",
        0.8,
    )
    assert (read("sat - 1").label, read("sat - 1").category) == ("sat", None)
    assert read("dsat nonsense").category is None
    assert read("").label == "none" and read("no idea").label == "none"


def test_mine_options_compose():
    for option in ("rules", "classifier"):
        assert instantiate(compose(f"mine={option}").mine).key()["miner"] == option


def test_precision_was_measured_at_the_thresholds_that_ship():
    shipped = compose("mine=classifier").mine
    assert classifier.MEASURED_FROM == {"dsat": shipped.dsat_threshold, "sat": shipped.sat_threshold}
