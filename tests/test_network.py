"""What comes back from a network is not taken on trust, and no secret goes where text goes."""

import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from judge_server import Server, endpoint
from odd_server import ANSWERS, KEY, SERVERS, OddServer, body, bomb, http

from drift.engine import answer
from drift.engine.answer import Failure, read, same_model
from drift.errors import UserError
from drift.masking import mask, masked
from drift.stop import Stopped

QUICK = {"retries": 0, "timeout_seconds": 1.0, "concurrency": 4}


def ask(which, texts, said=lambda count: None):
    return which.ask([[{"role": "user", "content": text}] for text in texts], said, max_tokens=20, advice="")


def kept(folder):
    """The answers in a cache, by question; nothing but whole entries may lie there."""
    entries = [json.loads(file.read_text()) for file in folder.iterdir()]
    return {entry["request"]["messages"][0]["content"]: entry["answer"] for entry in entries}


def test_an_odd_answer_costs_its_own_question_and_no_other(tmp_path, monkeypatch):
    """Every odd answer stands between two good ones. What had no answer is asked again, and only that."""
    monkeypatch.setenv("JUDGE_KEY", KEY)
    names = [name for odd in ANSWERS for name in (odd, f"good beside {odd}")]
    by_fate = {fate: [name for name, (_, found) in ANSWERS.items() if found == fate] for fate in ("failed", "no text", "answered")}
    with OddServer(lambda handler, text: handler.wfile.write(ANSWERS.get(text, (http(body()),))[0])) as server:
        with pytest.raises(UserError) as error:
            ask(endpoint(server, tmp_path, key_variable="JUDGE_KEY", **QUICK), names)
        first = len(server.served)
        server.act = lambda handler, text: handler.wfile.write(http(body("dsat")))
        found = dict(zip(names, ask(endpoint(server, tmp_path, key_variable="JUDGE_KEY", **QUICK), names), strict=True))
    text = str(error.value)
    assert first == len(names) and sorted(server.served[first:]) == sorted(by_fate["failed"] + by_fate["no text"])
    assert f"left {len(by_fate['failed'])} of the {len(names)} questions unanswered" in text and "1 x status 400" in text
    assert f"So far {len(names) - len(by_fate['failed'] + by_fate['no text'])} of the {len(names)} questions are answered" in text
    assert KEY not in text and "\x1b" not in text
    answered = [*by_fate["answered"], *(name for name in names if name not in ANSWERS)]
    assert kept(tmp_path) == found and {found[name].split()[0] for name in answered} == {"sat"}
    assert found["the key in the answer"] == "sat [secret]"


@pytest.mark.parametrize("name", SERVERS)
def test_an_odd_server_runs_into_the_timeout(name, tmp_path, monkeypatch):
    """Two tries of half a second, and nothing that it sends goes further: no text to another host, no key into the error."""
    monkeypatch.setenv("JUDGE_KEY", KEY)
    with OddServer(lambda handler, text: SERVERS[name](handler)) as server, OddServer(lambda handler, text: None) as other:
        bomb()
        server.other, begun = other.server_port, time.monotonic()
        settings = {"retries": 1, "timeout_seconds": 0.4, "max_dollars": 1e9}
        monkeypatch.setattr(answer, "FIRST_PAUSE", 0.01)
        with pytest.raises(UserError, match="left 1 of the 1 questions unanswered") as error:
            ask(endpoint(server, tmp_path, key_variable="JUDGE_KEY", **settings), ["How?"])
    once = name.startswith("sends") or name in ("never ends", "repeats the key")
    assert time.monotonic() - begun < 3 and len(server.served) == (1 if once else 2) and not other.served
    assert KEY not in str(error.value) and set(kept(tmp_path).values()) <= {None} if any(tmp_path.iterdir()) else True


def test_a_server_that_answers_nobody_is_given_up(tmp_path):
    with OddServer(lambda handler, text: handler.wfile.write(http({"error": "no such model"}, 404))) as server:
        with pytest.raises(
            UserError, match="left 1[0-3] of the 50 .*the last 10 in a row, so the rest were not asked.*no such model"
        ):
            ask(endpoint(server, tmp_path, **QUICK), [f"question {i}" for i in range(50)])
    assert 10 <= len(server.served) <= 13


def test_the_pause_that_a_server_asks_for_is_kept(tmp_path):
    times = []

    def act(handler, text):
        times.append(time.monotonic())
        handler.wfile.write(http("", 429, retry_after="0.3") if len(times) == 1 else http(body()))

    with OddServer(act) as server:
        assert ask(endpoint(server, tmp_path, **QUICK | {"retries": 1}), ["How?"]) == ["sat"]
    assert times[1] - times[0] >= 0.3
    assert [Failure("busy", pause=3600.0).wait(0), Failure("busy").wait(0), Failure("busy").wait(20)] == [60.0, 0.5, 60.0]


def test_late_tries_are_paid_for_before_the_next_one(tmp_path):
    """A question of 4 bytes, whose role has 4 (and 16 each), costs 40 dollars at most, so the third try does not fit into 100."""
    with OddServer(lambda handler, text: time.sleep(5)) as server, pytest.raises(UserError, match=r"max_dollars=100.*80 dollars"):
        prices = {"dollars_per_million_input": 1e6, "max_dollars": 100}
        ask(endpoint(server, tmp_path, **QUICK | {"retries": 5, "timeout_seconds": 0.1} | prices), ["How?"])
    assert len(server.served) == 2


def test_a_stop_ends_the_asking_at_once_and_counts_what_was_under_way(tmp_path, caplog):
    """The first question is answered, the others are waited for when somebody stops the program. Each costs 38 dollars at most."""

    def stop(count):
        begun.append(time.monotonic())
        raise Stopped(143)

    begun = []
    with OddServer(lambda handler, text: (time.sleep(0 if text == "q0" else 5), handler.wfile.write(http(body())))) as server:
        which = endpoint(server, tmp_path, concurrency=3, dollars_per_million_input=1e6, max_dollars=1e9)
        which.budget.count("another", 1.0, 1)  # so that what an answer costs is known, and three are asked at once
        with pytest.raises(Stopped):
            ask(which, ["q0", "q1", "q2", "q3"], stop)
    gc.collect()
    assert time.monotonic() - begun[0] < 1 and caplog.records == []
    assert sorted(json.loads(file.read_text())["dollars"] for file in tmp_path.iterdir())[:2] == [38.0, 38.0]


def test_two_processes_with_the_same_question_pay_once(tmp_path):
    """Two clients that know nothing of one another, as in two processes: locks are of open files, not of processes."""
    texts, found = [f"a stiff text {i}" for i in range(12)], []
    with Server(slow=0.02) as server:
        ask_all = lambda: found.append(ask(endpoint(server, tmp_path), [f"<next_turn>{text}</next_turn>" for text in texts]))  # noqa: E731
        threads = [threading.Thread(target=ask_all) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert server.served == 12 and found == [["dsat style 0.9"] * 12] * 3 and len(list(tmp_path.iterdir())) == 12


HOLD = """
import fcntl, os, sys, time
fcntl.flock(os.open(sys.argv[1], os.O_RDWR | os.O_CREAT), fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("ended", ["killed", "stopped"])
def test_a_question_whose_asker_is_dead_or_stopped_is_asked_by_the_next(ended, tmp_path, monkeypatch):
    monkeypatch.setattr(answer, "LONGEST_PAUSE", 0.2)
    with OddServer(lambda handler, text: handler.wfile.write(http(body()))) as server:
        which = endpoint(server, tmp_path, **QUICK | {"timeout_seconds": 0.3})
        ask(which, ["How?"])
        (file,) = tmp_path.iterdir()
        file.unlink()
        holder = subprocess.Popen([sys.executable, "-S", "-c", HOLD, f"{file}.lock"], stdout=subprocess.PIPE)
        assert holder.stdout.readline() == b"held\n"
        begun = time.monotonic()
        threading.Timer(0.1, holder.send_signal, [signal.SIGKILL if ended == "killed" else signal.SIGSTOP]).start()
        assert ask(endpoint(server, tmp_path, **QUICK | {"timeout_seconds": 0.3}), ["How?"]) == ["sat"]
        assert 0.1 <= time.monotonic() - begun < 2 and len(server.served) == 2
        holder.kill()
        holder.communicate()


@pytest.mark.parametrize("text", [
    "[]", "null", "[" * 10**5, '{"answer": "sat"}', '{"dollars": "x", "tries": [], "answer": {}}',
    '{"dollars": 1e400, "tries": -1}', "\x00", '{"answer": "sat", "request": {"model": "other"}}',
])  # fmt: skip
def test_a_cache_file_of_any_content_is_no_answer_but_its_own_question_s(text, tmp_path):
    with OddServer(lambda handler, text: handler.wfile.write(http(body()))) as server:
        ask(endpoint(server, tmp_path), ["How?"])
        (file,) = tmp_path.iterdir()
        file.write_text(text)
        assert ask(endpoint(server, tmp_path), ["How?"]) == ["sat"] and len(server.served) == 2


SAME = [
    ("gpt-4o-2024-08-06", "gpt-4o"), ("llama3:latest", "llama3"), ("Qwen/Qwen3-8B", "qwen3-8b"), ("m", "openai/m"),
    ("claude-v2", "claude"), ("/models/m/", "m"), ("gpt-4-0613", "gpt-4"), ("claude-3-opus-20240229-v1:0", "claude-3-opus"),
    ("claude-3-5-sonnet-20241022", "claude-3-5-sonnet-latest"), ("gemini-2.5-pro-preview-05-06", "gemini-2.5-pro-preview"),
    ("gemini-1.5-pro-002", "gemini-1.5-pro"),
]  # fmt: skip
OTHER = [
    ("gpt-4o-mini", "gpt-4o"), ("", "m"), (None, "m"), ("m", "m-2"), ("mm", "m"), ("other", "m"), ("gpt-4.1-mini", "gpt-4"),
    ("gpt-4-1106-preview", "gpt-4"), ("gpt-4.1", "gpt-4"), ("qwen2.5-7b-instruct", "qwen2"), ("llama-3.1-8b", "llama-3"),
    ("gpt-4-32k", "gpt-4"), ("phi-3-mini", "phi-3"),
]  # fmt: skip


def test_versions_and_paths_in_model_names_are_tolerated_and_other_models_are_not():
    assert [pair for pair in SAME if not same_model(*pair)] == [] == [pair for pair in OTHER if same_model(*pair)]
    with pytest.raises(Failure, match="not judge"):
        read(json.dumps(body(model="m")).encode(), "judge", logprobs=False)


@pytest.mark.parametrize("url", [
    "http://user:pa55word@localhost/v1", "https://pa55word@localhost/v1", "http://u:p@pa55word@localhost/v1", 
    "localhost:8000/pa55word", "http://localhost/v1?api_key=pa55word", "http://localhost/v1#pa55word", "ftp://pa55word/v1", "http://[pa55word/v1",
    "http:///pa55word",
])  # fmt: skip
def test_a_url_that_may_hold_a_secret_is_refused_without_repeating_it(url, tmp_path):
    with Server() as server, pytest.raises(UserError, match="endpoint.url: expected") as error:
        endpoint(server, tmp_path, url=url).check()
    assert "pa55word" not in str(error.value)


def test_a_key_in_the_place_of_its_variable_or_of_two_lines_is_not_repeated(tmp_path, monkeypatch):
    with Server() as server:
        with pytest.raises(UserError, match="expected the name of an environment variable") as error:
            endpoint(server, tmp_path, key_variable=KEY).check()
        assert KEY not in str(error.value)
        monkeypatch.setenv("JUDGE", f"{KEY}\nx")
        with pytest.raises(UserError, match="JUDGE can't be sent") as error:
            endpoint(server, tmp_path, key_variable="JUDGE").check()
        assert KEY not in str(error.value)
        monkeypatch.setenv("JUDGE", f" {KEY}\n")  # of a file with an end of line
        assert ask(endpoint(server, tmp_path, key_variable="JUDGE"), ["<next_turn>stiff</next_turn>"]) == ["dsat style 0.9"]


def test_a_basic_key_is_sent_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "Basic dXNlcjpwYTU1d29yZA==")
    with OddServer(lambda handler, text: handler.wfile.write(http(body(handler.headers["authorization"][:6])))) as server:
        assert ask(endpoint(server, tmp_path, key_variable="JUDGE_KEY"), ["How?"]) == ["Basic "]
        server.act = lambda handler, text: handler.wfile.write(http(handler.headers["authorization"][6:], 401))
        with pytest.raises(UserError, match="status 401") as error:
            ask(endpoint(server, tmp_path, key_variable="JUDGE_KEY"), ["How else?"])
    assert "dXNl" not in str(error.value)


def test_secrets_are_masked_and_other_words_are_not(monkeypatch):
    for name in [name for name in os.environ if name.endswith(("KEY", "TOKEN"))]:
        monkeypatch.delenv(name)
    for name, value in {
        "OPENAI_API_KEY": "sk-'é /x+12345",
        "HF_TOKEN": "hf_abcdefgh",
        "VLLM_KEY": "EMPTY",
        "TOKEN_PATH": "/a/path",
    }.items():
        monkeypatch.setenv(name, value)
    assert mask("hf_abcdefgh EMPTY /a/path") == "[secret] EMPTY /a/path"
    assert mask("x=sk-%27%C3%A9%20%2Fx%2B12345") == "x=[secret]" and mask("sk-'é /x+12345") == "[secret]"
    assert mask("my own pass1", "pass1") == "my own [secret]"
    assert mask("at http://me:p@ss@host/v1 and http://host/a@b, me@example.org") == (
        "at http://[secret]@host/v1 and http://host/a@b, me@example.org"
    )
    assert masked({"a": ["hf_abcdefgh", 1, None, {"hf_abcdefgh": ("x",)}]}) == {"a": ["[secret]", 1, None, {"[secret]": ["x"]}]}
    assert "hf_abcdefgh" not in str(UserError("no access with hf_abcdefgh"))
