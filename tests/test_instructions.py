"""IFEval and IFBench: verdicts, metrics, the panel, leaks; `drift evaluate`, killed and resumed."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, SMALL, command, compose

from drift.config import build
from drift.errors import UserError
from drift.evaluation import followed, instructions, nltk_data
from drift.evaluation.followed import Verdict
from drift.evaluation.instructions import BENCHMARKS

INSTALLED = all(importlib.util.find_spec(module) for module in instructions.MODULES)
needs_extra = pytest.mark.skipif(not INSTALLED, reason="needs the extra: pip install -c constraints.txt -e '.[benchmarks]'")
FEW = ["num_prompts=6", "max_new_tokens=8", "group_size=2"]
TINY = ["num_perplexity_prompts=0", *(f"evaluation.ifeval.{setting}" for setting in FEW)]
REPLIES = (
    lambda task: task.text,
    lambda task: (
        "<<A Title>>\n\n*First* point, *second* point and *third* point.\n\n* one\n* two\n* three\n\nSECTION 1\n"
        "Dr. Smith went home. He was tired. Was he? [name], [place] and [date].\n\n***\n\n"
        "Is there anything else I can help with?\n\nP.S. I do."
    ),
    lambda task: '"MY ANSWER IS YES.\nDAS IST EIN DEUTSCHER SATZ UND NOCH EIN WEITERER."',
)

PANEL = ["ifeval 1265", "ifeval 279", "ifeval 3407"]  # by hash


@pytest.fixture(scope="module")
def published():
    """IFEval's own functions in another package than the one that is used here, without that package's other parts."""
    (place,) = importlib.util.find_spec("eval_framework").submodule_search_locations
    folder = Path(place) / "tasks/ifeval"
    spec = importlib.util.spec_from_file_location("published", folder / "__init__.py", submodule_search_locations=[str(folder)])
    sys.modules["published"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@needs_extra
def test_every_verdict_of_ifeval_is_that_of_the_published_functions(published):
    """60 prompts, three fixed replies to each: strict and loose, instruction by instruction."""
    seen = set()
    for task in instructions.tasks("ifeval", 60):
        for reply in (make(task) for make in REPLIES):
            case = published.InputExample(
                key=0, instruction_id_list=list(task.instructions), prompt=task.text, kwargs=list(task.arguments)
            )
            with nltk_data.in_place():
                modes = (published.test_instruction_following_strict, published.test_instruction_following_loose)
                strict, loose = (mode(case, {task.text: reply}).follow_instruction_list for mode in modes)
            expected = [Verdict(strict=bool(s), loose=bool(one)) for s, one in zip(strict, loose, strict=True)]
            assert followed.verdicts(BENCHMARKS["ifeval"].checkers, task, reply) == expected, (task.key, reply)
            seen |= set(zip(task.instructions, expected, strict=True))
    assert len({name for name, _ in seen}) >= 22 and {verdict.loose for _, verdict in seen} == {True, False}
    assert Verdict(strict=False, loose=True) in {verdict for _, verdict in seen}


@needs_extra
def test_every_verdict_of_ifbench_is_that_of_the_packages_function():
    with nltk_data.in_place():
        from if_verifiable import IFBenchSample, evaluate_output_for_sample
    found = {True: 0, False: 0}
    for task in instructions.tasks("ifbench", 60):
        sample = IFBenchSample(
            key=task.key, prompt=task.text, instruction_id_list=list(task.instructions), kwargs=list(task.arguments)
        )
        for reply in (make(task) for make in REPLIES):
            with nltk_data.in_place():
                results, _ = evaluate_output_for_sample("ifbench", sample, reply)
            expected = [Verdict(strict=one.strict_pass, loose=one.loose_pass) for one in results]
            assert followed.verdicts(BENCHMARKS["ifbench"].checkers, task, reply) == expected, (task.key, reply)
            for verdict in expected:
                found[verdict.loose] += 1
    assert min(found.values()) > 20


@needs_extra
@pytest.mark.parametrize("reply", ["", " \n", "<think>The user wants", ".", "*", '"', "\u2028"])
def test_any_reply_has_a_verdict_for_each_instruction(reply):
    """The published checker of "format:quote_unquote" fails on a lone full stop."""
    wanted = next(task for task in instructions.tasks("ifbench", None) if "format:quote_unquote" in task.instructions)
    assert [one.strict for one in followed.verdicts(BENCHMARKS["ifbench"].checkers, wanted, reply)] == [False] * len(
        wanted.instructions
    )


@needs_extra
def test_sentences_stop_words_and_verbs_come_from_packages():
    with nltk_data.in_place():
        import nltk

        assert nltk.sent_tokenize("Dr. Smith paid $3.50 in the U.S. market. He left.") == [
            "Dr. Smith paid $3.50 in the U.S. market.",
            "He left.",
        ]
        assert {"the", "wouldn", "because"} <= set(nltk.corpus.stopwords.words("english")) and len(nltk_data.STOP_WORDS) == 153
        assert [nltk.pos_tag([word])[0][1] for word in ("Write", "ASK", "Table")] == ["VB", "VB", "NN"]
        place = nltk.data.path
        assert len(place) == 1 and place[0] == nltk_data.folder().name
    assert nltk.data.path != [nltk_data.folder().name]


def test_accuracies_by_hand():
    """Two prompts, three instructions: strictly the first follows one of its two, the second its only one."""
    yes, no, loose = Verdict(strict=True, loose=True), Verdict(strict=False, loose=False), Verdict(strict=False, loose=True)
    found = followed.metrics({"a": [yes, loose], "b": [yes], "c": [no, no, no]})
    assert {name: round(one["value"], 12) for name, one in found.items()} == {
        "prompt-level strict": round(1 / 3, 12), "instruction-level strict": round(2 / 6, 12),
        "average strict": round((1 / 3 + 2 / 6) / 2, 12), "prompt-level loose": round(2 / 3, 12),
        "instruction-level loose": round(3 / 6, 12),
    }  # fmt: skip
    assert found["average strict"]["per_item"] == {"a": 1 / 4, "b": 3 / 4, "c": 0}
    assert found["prompt-level loose"]["per_item"] == {"a": 1, "b": 1, "c": 0}
    assert found["instruction-level loose"]["per_item"] == {"a": 2 / 2, "b": 1 / 2, "c": 0}  # of two instructions a prompt


@needs_extra
def test_the_panel_is_the_same_everywhere_and_part_of_the_whole():
    whole = {name: instructions.tasks(name, None) for name in BENCHMARKS}
    assert {name: len(tasks) for name, tasks in whole.items()} == {"ifeval": 541, "ifbench": 300}
    assert instructions.tasks("ifeval", 64) == whole["ifeval"][:64]
    assert [task.key for task in whole["ifeval"][:3]] == PANEL
    assert len({task.key for tasks in whole.values() for task in tasks}) == 841


@needs_extra
def test_its_replies_are_greedy_and_long_whatever_the_runs_sampler():
    run = build(compose("model=tiny", "evaluation=[ifeval]", "sampler.temperature=0.9", "sampler.precision=float32"))
    own = run.evaluation["ifeval"].sampler(run.sampler)
    assert (own.temperature, own.max_new_tokens, own.group_size, own.precision) == (0, 1280, 32, "float32")


def test_a_missing_package_is_named_with_the_command_before_anything_runs(monkeypatch):
    monkeypatch.setitem(sys.modules, "if_verifiable", None)
    with pytest.raises(UserError, match=r"evaluation=ifeval needs the package if_verifiable.*pip install 'drift\[benchmarks\]'"):
        build(compose("evaluation=[deployment,ifeval]"))


@needs_extra
@pytest.mark.parametrize("wrong", ["num_prompts=542", "num_prompts=0", "temperature=-1", "max_new_tokens=0", "group_size=0"])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(UserError, match=r"evaluation\.ifeval.*expected"):
        build(compose("evaluation=[ifeval]", f"evaluation.ifeval.{wrong}"))


@needs_extra
def test_a_training_record_whose_prompt_it_asks_is_removed_even_outside_the_panel(tiny, tmp_path):
    from drift.journal import Journal
    from drift.loop import Loop
    from drift.model.policy import load_tokenizer, policy_at

    asked = instructions.tasks("ifeval", None)[-1].text
    rows = [
        {"prompt": [{"role": "user", "content": text}], "rejected": [{"role": "assistant", "content": f"No {i}."}]}
        | {"user_preference": {"content": "That is wrong."}}
        for i, text in enumerate([asked, *(f"Which number comes after {n}?" for n in range(5))])
    ]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    log = ["data=jsonl", f"data.path={tmp_path}/log.jsonl", f"store.dir={tmp_path}/store"]
    run = build(compose("model=tiny", *log, "evaluation=[ifeval]"))
    start = policy_at(tiny)
    journal = Journal(tmp_path, {"method": "x", "seed": "0"}, {}, run.store, run.logger, run.alarms)
    records, held_out = Loop(run=run, journal=journal, start=start, tokenizer=load_tokenizer(start)).collect_feedback(1, start)
    (leak,) = [json.loads(line) for line in (tmp_path / "leakage.jsonl").read_text().splitlines()]
    assert leak["found"] == "equal" and len(records) == 5 and held_out == {"ifeval": []}
    assert all(record.prompt[0]["content"] != asked for record in records)


@pytest.fixture(scope="module")
def finished(cache, tmp_path_factory):
    """The folder of a run with both kinds of evaluation, and its settings for `drift evaluate`."""
    folder = tmp_path_factory.mktemp("finished")
    settings = [*TINY, f"store.dir={folder}/store"]
    small = [setting for setting in SMALL if not setting.startswith("num_perplexity")]
    places = [f"model.cache_dir={cache}", f"hydra.run.dir={folder}/run"]
    done = command(*small, *settings, *places, "iterations=1", "evaluation=[deployment,ifeval]")
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "run", settings


@needs_extra
@pytest.mark.slow
def test_a_run_reports_both_evaluations(finished):
    folder, _ = finished
    state = json.loads((folder / "run.json").read_text())
    for point, place in zip(state["points"], ("iteration_0", "iteration_1"), strict=True):
        assert list(point["scores"]) == ["deployment", "ifeval"] and point["scores"]["ifeval"]["headline"] == "prompt-level strict"
        rows = [json.loads(line) for line in (folder / place / "ifeval/replies.jsonl").read_text().splitlines()]
        assert [row["key"] for row in rows[:3]] == PANEL and len(rows) == 6
        per_item = point["scores"]["ifeval"]["metrics"]["prompt-level strict"]["per_item"]
        assert per_item == {row["key"]: float(all(one["strict"] for one in row["instructions"])) for row in rows}
    assert state["outlook"] == ["IFEval: 6 of 541 prompts (Google, Apache-2.0), answered greedily in up to 8 tokens."]
    assert "prompt-level strict" in (folder / "report.html").read_text()


def groups(store):
    """The finished groups of replies; an unfinished one has a dot in its name."""
    return {file for file in store.glob("replies/*/manifest.json") if "." not in file.parent.name}


@needs_extra
@pytest.mark.slow
def test_evaluate_finds_what_the_run_has_drawn_and_resumes_after_a_kill(finished, cache, tmp_path, capsys):
    from drift.evaluate import evaluate

    folder, settings = finished
    store = folder.parent / "store"
    more = [*settings, "evaluation.ifeval.num_prompts=60", "evaluation.ifeval.group_size=2"]
    begun = groups(store)
    words = [sys.executable, "-m", "drift", "evaluate", str(folder), "--on", "ifeval", *more]
    process = subprocess.Popen(words, cwd=ROOT, env=os.environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and len(groups(store) - begun) < 3:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    kept = {file: file.stat().st_mtime_ns for file in groups(store)}
    assert 3 <= len(kept) - len(begun) < 54  # 27 more groups of each policy, of which some were drawn
    model = build(compose("model=tiny", f"model.cache_dir={cache}")).model.directory()
    evaluate([str(folder), str(model)], ["ifeval"], "last", tmp_path / "out", more)
    assert {file: file.stat().st_mtime_ns for file in kept} == kept
    assert len(groups(store) - begun) == 54  # the model is the run's start: it is not asked twice
    page = (tmp_path / "out/benchmarks.md").read_text()
    assert "IFEval: 60 of 541 prompts" in page and "| run start |" in page and "| run iteration 1 |" in page
    scores = json.loads((tmp_path / "out/run_start/ifeval/scores.json").read_text())["metrics"]["prompt-level strict"]
    panel = json.loads((folder / "iteration_0/ifeval/scores.json").read_text())["metrics"]["prompt-level strict"]
    assert len(scores["per_item"]) == 60 and panel["per_item"].items() <= scores["per_item"].items()
    assert "Tables: " in capsys.readouterr().out
    sampler = [item for item in settings if not item.startswith("evaluation.")]
    ifbench = ["evaluation.ifbench.num_prompts=5", "evaluation.ifbench.max_new_tokens=8"]
    evaluate([str(folder.parent)], ["ifbench"], "last", tmp_path / "out", [*sampler, *ifbench])  # a sweep's folder: its runs
    both = (tmp_path / "out/benchmarks.md").read_text()
    assert "IFEval: 60 of 541 prompts" in both and "IFBench: 5 of 300 prompts" in both, "the earlier table stays"
    (row,) = (line for line in page.splitlines() if line.startswith("| run iteration 1 |"))
    assert row.partition(", p ")[0] in both and both.count("| run start |") == 1 and both.count("| start |") == 1


@needs_extra
@pytest.mark.slow
@pytest.mark.parametrize(
    ("targets", "names", "why"),
    [
        (["."], ["ifevel"], "Did you mean ifeval"),
        (["nowhere"], ["ifeval"], "neither a directory nor a hub id"),
        (["{model}"], ["ifeval"], "Add --out FOLDER"),
    ],
)
def test_what_evaluate_cannot_do_is_said_in_a_sentence(targets, names, why, finished, tiny):
    from drift.evaluate import evaluate

    _, settings = finished
    with pytest.raises(UserError, match=why):
        evaluate([text.format(model=tiny) for text in targets], names, "all", None, settings)


@needs_extra
def test_the_tables_compare_every_policy_with_the_first_and_correct_p_together():
    """Ten prompts: the second policy follows all that the first does not, the third equals the first. By hand: all ten differences
    are +1, so p is 2 / 2^10 for the flips, times two comparisons."""
    from drift.evaluation.metric import metric
    from drift.report import benchmarks, state

    def scored(policy, value, count=10, name="quiz"):
        measured = {"score": metric({f"p{i}": value for i in range(count)})}
        scores = state.scores({"headline": "score", "metrics": measured, "conversations": {}})
        return benchmarks.Scored(
            policy=policy, directory=Path(policy), benchmark=name, scores=scores, folder=Path(policy), about="Ten questions."
        )

    everything = [scored("start", 0.0), scored("better", 1.0), scored("same", 0.0)]
    figures = benchmarks.ratings(everything)
    assert figures == [{}, {}, {}], "these need no other policy"
    few = [scored("start", 0.0, 5, "short"), scored("better", 1.0, 5, "short")]
    table, short = benchmarks.tables([*everything, *few], [*figures, {}, {}]).values()
    assert short[1]["against start"] == "+1.000, too few prompts", "which is no comparison, and counts for none"
    assert [row["against start"] for row in table] == [
        "-", "+1.000 [+1.000, +1.000], p 0.004", "+0.000 [+0.000, +0.000], p 1.000"
    ]  # fmt: skip
    rows = {row["policy"]: row for row in benchmarks.rows(everything, figures)}
    assert rows["better"]["difference"] == 1 and rows["better"]["p"] == 2 / 1024 and "difference" not in rows["start"]
    assert "| better | 1.000 | +1.000" in benchmarks.page(everything, figures, ["A note."])


@needs_extra
def test_two_turns_of_a_conversation_count_as_one_in_the_tables():
    """Sixteen turns of eight conversations, both turns alike: intervals are those of the eight values."""
    from drift.evaluation.metric import metric
    from drift.report import benchmarks, state
    from drift.statistics import over_items, paired

    def scored(policy, low):
        words = metric({f"{i}:{turn}": float(low + i * i) for i in range(8) for turn in (1, 2)}, digits=1)
        of = {f"{i}:{turn}": str(i) for i in range(8) for turn in (1, 2)}
        scores = state.scores({"headline": "words", "metrics": {"words": words}, "conversations": of})
        return benchmarks.Scored(
            policy=policy, directory=Path(policy), benchmark="turns", scores=scores, folder=Path(policy), about=""
        )

    both = [scored("start", 0), scored("better", 1)]
    _, row = benchmarks.rows(both, [{}, {}])
    by_conversation = over_items([float(1 + i * i) for i in range(8)])
    assert (row["value low"], row["value high"]) == pytest.approx((by_conversation.low, by_conversation.high))
    assert (
        row["p"] == paired([{str(i): float(1 + i * i) for i in range(8)}], [{str(i): float(i * i) for i in range(8)}]).p == 2 / 2**8
    )
