"""Benchmarks that a judge scores, in runs: against a real server on this machine, with prompts that are too long, kills, a cap, and
answers that are missing or can't be read; and the log-probabilities of an answer's first token."""

import json
import math
import signal
import subprocess
import sys
from importlib.util import find_spec

import pytest
from conftest import ROOT, SMALL, compose, perform
from judge_server import Server, endpoint
from odd_server import body
from test_llm_judge import asking
from test_wildbench import ROWS

from drift.benchmark.alpacaeval import AlpacaEval, AlpacaTask
from drift.benchmark.examiner import Examiner
from drift.benchmark.judged import Question
from drift.benchmark.mtbench import MtBench
from drift.config import build
from drift.engine.answer import Answer, Failure, read
from drift.errors import UserError
from drift.evaluation.stage import evaluation_stage, sampler_of
from drift.identity import identity
from drift.records import read_jsonl

BENCH = MtBench(cache_dir=None)
DOLLARS = {"dollars_per_million_input": 1.0, "dollars_per_million_output": 0.0, "max_dollars": 100.0}


def rate(body):
    """A rating that depends on the length of the last reply in view."""
    return f"Fine. Rating: [[{1 + len(body['messages'][-1]['content']) % 10}]]"


def mtbench(server, folder, *, num_prompts=4, max_new_tokens=4, **settings):
    """The settings of `evaluation=[...,mtbench]` with this server as its judge."""
    small = {"num_prompts": num_prompts, "max_new_tokens": max_new_tokens, "group_size": 2} | settings
    asked = {"url": f"http://127.0.0.1:{server.server_port}/v1", "model": "m", "key_variable": "null", "cache_dir": folder}
    names = small | {f"endpoint.{name}": value for name, value in asked.items()}
    return [f"evaluation.mtbench.{name}={value}" for name, value in names.items()]


def questions_of(folders):
    """What the judge must have been asked about the replies in these folders, each question once."""
    tasks, asked = {task.key: task for task in BENCH.tasks()}, set()
    for folder in folders:
        rows = read_jsonl(folder / "replies.jsonl")
        for first, second in zip(rows[::2], rows[1::2], strict=True):
            assert second["key"] == f"{first['key']}, turn 2"
            assert [message["content"] for message in second["prompt"]] == [
                first["prompt"][0]["content"], first["reply"], tasks[first["key"]].follow_ups[0]
            ]  # fmt: skip
            for question in BENCH.questions(tasks[first["key"]], [first["reply"], second["reply"]]):
                asked.add(json.dumps(list(question.messages)))
    return asked


@pytest.mark.slow
def test_a_run_judges_every_policy_and_the_same_run_again_asks_nothing(cache, tmp_path):
    """Four tasks of two turns, two policies: a question for each turn, but none twice. `drift evaluate` with six tasks asks about
    the other two only."""
    from drift.evaluate import evaluate

    with Server(answers=rate) as server:
        small = [item for item in SMALL if not item.startswith("num_perplexity")]
        settings = [*mtbench(server, tmp_path / "cache"), f"store.dir={tmp_path}/store", "num_perplexity_prompts=0"]
        whole = [*small, *settings, f"model.cache_dir={cache}", "iterations=1", "evaluation=[deployment,mtbench]"]
        whole += ["train.learning_rate=0.1"]  # so that the second policy replies something else
        state = perform(tmp_path / "run", *whole)
        start, trained = (tmp_path / f"run/iteration_{i}/mtbench" for i in (0, 1))
        assert {json.dumps(body["messages"]) for body in server.bodies} == questions_of([start, trained]) != questions_of([start])
        before = server.served
        assert before == len(questions_of([start, trained])) and all(body["temperature"] == 0 for body in server.bodies)
        for point, folder in zip(state["points"], (start, trained), strict=True):
            scores, rows = point["scores"]["mtbench"], read_jsonl(folder / "replies.jsonl")
            ratings = [one["verdict"] for row in rows[1::2] for one in row["verdicts"]]
            assert len(ratings) == 8 and scores["metrics"]["MT-Bench"]["value"] == pytest.approx(sum(ratings) / 8)
            assert scores["metrics"]["unread verdicts"]["value"] == scores["metrics"]["prompts without a reply"]["value"] == 0
            assert scores["conversations"] == {key: key.split(",")[0] for key in (row["key"] for row in rows)}
        assert [line.partition(":")[0] for line in state["outlook"]] == ["MT-Bench", "MT-Bench"]
        assert "published figures were judged by gpt-4" in (tmp_path / "run/report.html").read_text()
        assert perform(tmp_path / "again", *whole)["points"][-1]["scores"]["mtbench"] == state["points"][-1]["scores"]["mtbench"]
        assert server.served == before
        policy, more = tmp_path / "run/iteration_1/policy", [*settings, "evaluation.mtbench.num_prompts=6"]
        evaluate([str(policy)], ["mtbench"], "last", tmp_path / "out", more)
        (full,) = (tmp_path / "out").glob("*/mtbench")
        assert server.served == before + 4 == len(questions_of([start, full])) and questions_of([trained]) < questions_of([full])
        assert "Licence: Apache-2.0 (FastChat)" in (tmp_path / "out/benchmarks.md").read_text()


def evaluated(cache, folder, server, **settings):
    """The scores and rows of the tiny model, without a run around it."""
    from drift.engine.ask import Ask
    from drift.model.policy import policy_at

    given = [*mtbench(server, folder / "cache", **settings), f"store.dir={folder}/store", f"model.cache_dir={cache}"]
    run = build(compose("model=tiny", "evaluation=[mtbench]", *given))
    evaluation, policy = run.evaluation["mtbench"], policy_at(run.model.directory())
    ask = Ask(
        sampler=sampler_of(evaluation, run.sampler), compute=run.train.compute, store=run.store, start=policy, policy=policy,
        seed=0, purpose="evaluation", iteration=0,
    )  # fmt: skip
    stage = evaluation_stage(ask, evaluation, [], 0)
    return json.loads((stage.path / "scores.json").read_text())["metrics"], read_jsonl(stage.path / "replies.jsonl")


def test_a_task_whose_second_prompt_is_too_long_is_left_out_and_counted(cache, tokenizer, tmp_path):
    from drift.model.chat import prompt_ids

    with Server(answers=rate) as server:
        metrics, rows = evaluated(cache, tmp_path, server, num_prompts=4)
        lengths = {row["key"].split(",")[0]: len(prompt_ids(tokenizer, row["prompt"])) for row in rows[1::2]}
        longest = max(lengths, key=lambda key: lengths[key])
        fewer, rest = evaluated(cache, tmp_path, server, num_prompts=4, max_prompt_tokens=lengths[longest] - 1)
        assert server.served == 8, "the others have the same replies, and so the same questions"
        assert fewer["prompts without a reply"]["value"] == 1 and metrics["prompts without a reply"]["value"] == 0
        kept = {key: value for key, value in metrics["MT-Bench: turn 2"]["per_item"].items() if key != longest}
        assert fewer["MT-Bench: turn 2"]["per_item"] == kept and len(kept) == 3
        assert [row["key"] for row in rest] == [row["key"] for row in rows if not row["key"].startswith(longest)]
        server.answers = lambda body: "Nice."
        with pytest.raises(UserError, match=r"none of the 6 answers of m can be read.*evaluation\.mtbench\.endpoint\.model=NAME"):
            evaluated(cache, tmp_path / "nice", server, num_prompts=3)
        with pytest.raises(UserError, match=r"None of the 4 prompts .* evaluation\.mtbench\.max_prompt_tokens=5"):
            evaluated(cache, tmp_path, server, num_prompts=4, max_prompt_tokens=5)


def examiner(server, folder, *, benchmark=BENCH, without_answer="stop", group_size=2, **asked):
    return Examiner(
        benchmark=benchmark, endpoint=endpoint(server, folder, **asked), without_answer=without_answer, group_size=group_size,
        setting="evaluation.mtbench",
    )  # fmt: skip


TASKS = [(task, [f"reply to {task.key}", "second reply"]) for task in BENCH.tasks()[:5]]  # groups of two tasks are four questions


def verdicts(found):
    return [[one["verdict"] for one in rows] for rows in found]


def test_one_cap_holds_for_a_run_and_for_the_run_that_goes_on(tmp_path, capsys):
    """Ten questions, a dollar each. The first group costs four; with a cap of six, two of the next are answered."""

    def run(dollars):
        judge = examiner(server, tmp_path / "cache", max_dollars=dollars)
        return verdicts(asking(tmp_path).verdicts(judge, TASKS, label="t"))

    with Server(answers=lambda body: "[[7]]") as server:
        for i in range(2):
            with pytest.raises(UserError, match=r"max_dollars=6.*2 of the 4 questions are answered, for 6 dollars"):
                run(6)
            said = capsys.readouterr().out
            assert server.served == 6 and f"{(10, 4)[i]} questions to begin with, about" in said, "before the first request"
        assert len(list((tmp_path / "judge").glob("*/manifest.json"))) == 1, "nothing unanswered is a finished stage"
        assert run(10) == [[7.0, 7.0]] * 5 and server.served == 10
        assert run(10) == [[7.0, 7.0]] * 5 and server.served == 10


KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, "tests")
from types import SimpleNamespace
from test_judged import TASKS, asking, examiner

server, folder = SimpleNamespace(server_port=int(sys.argv[1])), Path(sys.argv[2])
print(len(asking(folder).verdicts(examiner(server, folder / "cache", concurrency=2), TASKS, label="t")))
"""


def test_a_kill_costs_the_requests_under_way_and_a_second_run_asks_nothing(tmp_path):
    """Two at once; the server kills at the seventh question. At most these two are asked again."""

    def answers(body):
        if server.served >= 7:
            process.kill()
        return rate(body)

    with Server(answers=answers, slow=0.05) as server:
        process = subprocess.Popen([sys.executable, "-c", KILLED, str(server.server_port), str(tmp_path)], cwd=ROOT)
        process.wait(60)
        assert process.returncode == -signal.SIGKILL and 7 <= server.served <= 8
        found = asking(tmp_path).verdicts(examiner(server, tmp_path / "cache"), TASKS, label="t")
        assert [len(rows) for rows in found] == [2] * 5 and 10 <= server.served <= 12
        before = server.served
        assert asking(tmp_path).verdicts(examiner(server, tmp_path / "cache"), TASKS, label="t") == found
        assert server.served == before


def test_a_question_without_an_answer_stops_the_run_or_has_no_verdict(tmp_path, capsys):
    """Of the first task's two questions one is not answered; the other task's answers can't be read."""
    task, other = TASKS[0][0], TASKS[1][0]

    def answers(body):
        text = body["messages"][-1]["content"]
        return None if "reply to 81" in text and "second reply" not in text else "[[8]]" if "reply to 81" in text else "Fine."

    with Server(answers=answers) as server:
        with pytest.raises(
            UserError, match=r"1 of 4 questions got an answer without a text.*evaluation\.mtbench\.without_answer=skip"
        ):
            asking(tmp_path).verdicts(examiner(server, tmp_path / "cache"), TASKS[:2], label="t")
        assert not list(tmp_path.glob("judge/*/manifest.json"))
        found = asking(tmp_path).verdicts(examiner(server, tmp_path / "cache", without_answer="skip"), TASKS[:2], label="t")
        assert (task.key, other.key) == ("81", "82") and verdicts(found) == [[None, 8.0], [None, None]]
        assert [one["answer"] for one in found[0]] == [None, "[[8]]"]
        assert "answers can't be read" in capsys.readouterr().out


def test_a_verdict_is_kept_by_what_it_depends_on(tmp_path):
    """Not by how many are asked at once, where answers lie or what they cost."""
    with Server() as server:
        plain = identity(examiner(server, tmp_path))
        same = {"group_size": 9}, {"concurrency": 9, "max_dollars": 1.0, "retries": 0}
        other = {"model": "other"}, {"url": "http://x/v1"}, {"without_answer": "skip"}
        assert all(identity(examiner(server, tmp_path, **changes)) == plain for changes in same)
        assert all(identity(examiner(server, tmp_path, **changes)) != plain for changes in other)


@pytest.mark.skipif(find_spec("eval_framework") is None, reason="needs the extra: pip install 'drift[benchmarks]'")
def test_alpacaeval_weighs_a_verdict_by_the_judges_first_token(tmp_path):
    """P(M) = .6 and P(m) = .2: 1.75 for the reply that is shown second, so 1.25 where that is the baseline's. A reply that equals
    the baseline's is a draw without a question."""
    bench = AlpacaEval(gamed=None, cache_dir=None)
    tasks = bench.tasks()[:6]
    replies = [["mine"] for _ in tasks[1:]]
    with Server(answers=str, choices=[choice("M", ("M", math.log(0.6)), ("m", math.log(0.2)))]) as server:
        judge = examiner(server, tmp_path / "cache", benchmark=bench)
        items = [(tasks[0], [tasks[0].baseline]), *zip(tasks[1:], replies, strict=True)]
        found = asking(tmp_path).verdicts(judge, items, label="t")
        assert verdicts(found)[0] == [1.5] and server.served == 5
        expected = [[pytest.approx(1.25 if bench.questions(task, ["mine"])[0].swapped else 1.75)] for task in tasks[1:]]
        assert verdicts(found)[1:] == expected and len({str(one) for one in expected}) == 2
        assert {(body["top_logprobs"], body["max_tokens"]) for body in server.bodies} == {(5, 1)}
        asking(tmp_path).verdicts(examiner(server, tmp_path / "cache"), TASKS[:1], label="t")
        assert "top_logprobs" not in server.bodies[-1], "MT-Bench does not need them"


def test_wildbench_takes_its_tasks_and_the_baseline_from_files(tmp_path):
    """Both measures, with the judge of the first for the second, too."""
    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps(one) + "\n" for one in ROWS))
    (tmp_path / "old.json").write_text(json.dumps([{"session_id": one["session_id"], "output": "base"} for one in ROWS]))
    known = {
        f"wildbench.endpoint.{name}": value for name, value in (("url", "http://x/v1"), ("model", "m"), ("key_variable", "null"))
    }
    known |= {
        "wildbench_reward.endpoint": "${evaluation.wildbench.endpoint}",
        "wildbench_reward.benchmark.baseline": tmp_path / "old.json",
    }
    for name in ("wildbench", "wildbench_reward"):
        known |= {f"{name}.benchmark.path": tmp_path / "tasks.jsonl", f"{name}.num_prompts": 3}
        known |= {f"{name}.benchmark.config": "null", f"{name}.benchmark.split": "null"}
    settings = [f"evaluation.{name}={value}" for name, value in known.items()]
    both = build(compose("evaluation=[wildbench,wildbench_reward]", *settings)).evaluation
    assert [len(one.panel()) for one in both.values()] == [3, 3]
    assert {one.endpoint.model for one in both.values()} == {"m"} and len(both["wildbench"].prompts()) == 5
    assert both["wildbench_reward"].endpoint.setting == "evaluation.wildbench_reward.endpoint", "each has a budget of its own"


def choice(text, *tokens):
    """A choice of a server's answer with the log-probabilities of its first token."""
    top = [{"token": token, "logprob": nats, "bytes": None} for token, nats in tokens]
    return {"finish_reason": "length", "message": {"content": text}, "logprobs": {"content": [{"top_logprobs": top}]}}


ASKED = {"max_tokens": 1, "logprobs": True, "top_logprobs": 5}
QUESTION = [[{"role": "user", "content": "m or M?"}]]


def test_the_likeliest_first_tokens_are_kept_where_they_are_asked_for(tmp_path):
    """P(m) = .2, P(M) = .6: the preference for the second reply is 1 + .75. The token that was drawn is another, and blank."""
    task = AlpacaTask(key="000", index=0, prompt=(), instruction="?", baseline="")
    question = Question(key=task.key, part="preference", messages=[], swapped=False)
    tokens = [("M", math.log(0.6)), ("m", math.log(0.2)), ("Both", -9999.0), ("M", -30)]
    with Server(answers=str, choices=[choice(" ", *tokens)]) as server:
        for _ in range(2):
            (found,) = endpoint(server, tmp_path).answers(QUESTION, lambda count: None, advice="", **ASKED)
            assert found.text == " " and dict(found.top_logprobs) == {"M": math.log(0.6), "m": math.log(0.2), "Both": -9999.0}
            assert AlpacaEval(gamed=None, cache_dir=None).read(question, found) == pytest.approx(1.75)
        assert server.served == 1, "the second time from the disk"
        (file,) = tmp_path.iterdir()
        file.write_text(file.read_text().replace("-9999.0", "1"))
        endpoint(server, tmp_path).answers(QUESTION, lambda count: None, advice="", **ASKED)
        assert server.served == 2, "what is no log-probability on the disk is asked again"
        assert endpoint(server, tmp_path / "plain").ask(QUESTION, lambda count: None, advice="", max_tokens=1) == [None]


@pytest.mark.parametrize("sent", [
    [("M", 0.5)], [("M", float("nan"))], [("M", float("-inf"))], [("M", "-1")], [("M", True)], [(1, -1.0)], [("\ud800", -1.0)],
], ids=repr)  # fmt: skip
def test_log_probabilities_that_are_none_are_no_answer(sent):
    with pytest.raises(Failure, match="top_logprobs are no log-probabilities"):
        read(json.dumps(body(choices=[choice("M", *sent)])).encode(), "m", logprobs=True)


@pytest.mark.parametrize("logprobs", [None, {}, {"content": None}, {"content": []}, {"content": [{"top_logprobs": []}]}, "none"])
def test_a_server_without_log_probabilities_answers_with_its_token(logprobs):
    received = read(json.dumps(body(choices=[choice("M") | {"logprobs": logprobs}])).encode(), "m", logprobs=True)
    assert received.answer == Answer(text="M", top_logprobs=None)


@pytest.mark.parametrize(("name", "given", "message"), [
    ("mtbench", ["num_prompts=81"], r"evaluation\.mtbench\.num_prompts=81: expected 1 to 80, or null for all"),
    ("mtbench", ["max_prompt_tokens=0"], r"evaluation\.mtbench: expected temperature >= 0, and max_prompt_tokens, .* at least 1"),
    ("mtbench", ["endpoint.key_variable=NO_KEY"], r"evaluation\.mtbench\.endpoint\.key_variable=null for a server without keys"),
    ("wildbench", [], r"hf download --repo-type dataset allenai/WildBench.*evaluation\.wildbench\.benchmark\.path=FILE"),
    ("wildbench", ["benchmark.template=nowhere"], r"evaluation\.wildbench\.benchmark\.template=nowhere can't be read"),
    ("wildbench_reward", [], r"evaluation\.wildbench_reward\.benchmark\.baseline=FILE, an official result file"),
])  # fmt: skip
def test_what_is_missing_is_said_with_its_setting_before_anything_runs(name, given, message, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    known = ["endpoint.url=http://127.0.0.1:1/v1", "endpoint.model=m", "endpoint.key_variable=null", *given]
    with pytest.raises(UserError, match=message):
        build(compose(f"evaluation=[deployment,{name}]", *(f"evaluation.{name}.{item}" for item in known)))


def test_the_judge_of_the_published_figures_is_told_from_others():
    known = ["endpoint.url=http://127.0.0.1:1/v1", "endpoint.key_variable=null"]
    for model, said in {
        "openai/gpt-4": "the judge is openai/gpt-4 (http://127.0.0.1:1/v1), as in the published figures.",
        "gpt-4o": "The published figures were judged by gpt-4, so compare these with one another only.",
    }.items():
        settings = [f"evaluation.mtbench.{item}" for item in [*known, f"endpoint.model={model}"]]
        asked, judged = build(compose("evaluation=[mtbench]", *settings)).evaluation["mtbench"].outlook([], [])
        assert (
            said in judged and "16 of 80 prompts, answered greedily in up to 1024 tokens. Licence: Apache-2.0 (FastChat)" in asked
        )
