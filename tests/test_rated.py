"""Figures that depend on the other policies of a table: by hand, on a study's page, in W&B's tables, after `drift evaluate`."""

import csv
import json
from importlib.util import find_spec

import pytest
from judge_server import Server
from test_report import state, write
from test_wildbench import ROWS

from drift.benchmark import arena_style, wildbench_elo
from drift.benchmark.judged import UNREAD
from drift.benchmark.wildbench import Graded
from drift.logger import comparison
from drift.report import html, rated, results
from drift.report.foreign import Reader
from drift.report.lines import JudgedReply
from drift.report.state import Metric, Scores
from drift.statistics import Interval


def graded(*grades, judge="m", reply="x"):
    return [JudgedReply(reply=reply, key=str(i), judge=judge, grade=grade) for i, grade in enumerate(grades)]


def test_two_policies_are_rated_by_their_grades_and_equal_ones_count_once():
    """One task, graded 8 and 5: a win of 4 / 2 points. A third policy says the same as the second; a fourth has another judge, a
    fifth no verdict."""
    policies = {"a": graded(8), "b": graded(5), "same": graded(5), "other": graded(9, judge="n"), "none": []}
    win, loss = ({"WB-Elo": Interval(mean=mean, low=mean, high=mean, over="1 prompt")} for mean in (1002, 998))
    assert rated.figures_of(policies) == {"a": win, "b": loss, "same": loss}
    assert rated.figures_of({"alone": graded(8, 7)}) == {}


def test_the_interval_of_a_rating_holds_what_other_tasks_would_have_given():
    """Twenty tasks, of which one policy wins 15 and the other 5: all draws of them average to the rating, and differ by more than
    the order of the votes does. Every vote gives to one what it takes from the other."""
    grades = {name: [Graded(key=str(i), grade=5 + 4 * (won == (i < 15)), reply="x") for i in range(20)] for name, won in
              (("better", True), ("worse", False))}  # fmt: skip
    settings = {name: wildbench_elo.PUBLISHED[name] for name in ("margin", "tie_margin", "k", "length_margin")}
    found, bounds = wildbench_elo.ratings(grades, {}, **wildbench_elo.PUBLISHED), wildbench_elo.over_tasks(grades, **settings)
    (low, high), better = bounds["better"], found["better"]
    assert better.elo + found["worse"].elo == pytest.approx(2000) and better.elo > 1010
    assert low < better.low < better.high < high and (low + high) / 2 == pytest.approx(better.elo, abs=3)
    assert bounds["worse"] == pytest.approx((2000 - high, 2000 - low))


def fought(*outcomes, style=(0.0, 0.0, 0.0, 0.0)):
    return [
        JudgedReply(reply="x", key=str(i), judge="m", outcomes=list(found), style=list(style)) for i, found in enumerate(outcomes)
    ]


def test_without_differences_of_style_the_controlled_win_rate_is_the_win_rate():
    """3.5 of 4 outcomes are wins, 1 of 6 (a much better reply counts three times)."""
    policies = {"a": fought((1, 1), (0.5, 1)), "b": fought((0, 0, 0), (0, 1, 0))}
    found = {name: figures["style-controlled win rate"].mean for name, figures in rated.figures_of(policies).items()}
    assert found == pytest.approx({"a": 87.5, "b": 100 / 6}, abs=1e-3)


def judged_run(folder, method, grades):
    """A run of which a judge gave the start model's reply a 5, and the policy's this grade."""
    run, metric = state(method, 0, 0.0), Metric(value=0.0, per_item={"0": 0.0}, digits=1)
    run.outlook = ["WildBench: the judge is m."]
    folder.mkdir(parents=True)
    for point, found in zip(run.points, ((5,), grades), strict=True):
        point.scores["wildbench"] = Scores(headline="WB-Score", metrics={"WB-Score": metric, UNREAD: metric})
        place = folder / f"iteration_{point.iteration}/wildbench"
        place.mkdir(parents=True)
        rows = [{"prompt": [], "reply": "x", "key": str(i), "judge": "m", "grade": grade} for i, grade in enumerate(found)]
        (place / "replies.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write(folder, run)


def test_a_study_shows_them_on_its_page_and_in_the_tables_of_a_logger(tmp_path):
    judged_run(tmp_path / "0-drift", "drift", [8])
    judged_run(tmp_path / "1-spin", "spin", [5])
    text = html.study_report(tmp_path).read_text()
    section = text.split("<h2>Figures that depend on the other policies</h2>")[1].split("<h2>")[0]
    assert section.count("<td>998 [998, 998]</td>") == 3 and section.count("<td>1002 [1002, 1002]</td>") == 1
    assert "their mean is 1000" in section and "style" not in section
    tables = comparison.tables_of(tmp_path, with_samples=False)
    elo = {(row["run"], row["policy"]): row["value"] for row in tables["scores"] if row["metric"] == "WB-Elo"}
    assert elo == {("drift", "start"): 998, ("drift", "iteration 1"): 1002, ("spin", "start"): 998, ("spin", "iteration 1"): 998}
    assert tables["evaluations"] == [{"run": name, "about": "WildBench: the judge is m."} for name in ("drift", "spin")]
    rows = results.comparisons([member.state for member in Reader().members(tmp_path)])
    assert [(row.get("evaluation"), row["metric"]) for row in rows] == [(None, "utility"), ("wildbench", "WB-Score")]
    assert "<td>drift - spin</td>" in text.split("<h2>Evaluation wildbench")[1].split("<h2>")[0]


@pytest.mark.parametrize("wrong", [{"grade": 11}, {"grade": 1e14}, {"style": [0.0], "outcomes": [1]}, {"style": [0, 0, 0, 3.0]}])
def test_what_no_benchmark_gives_is_skipped_with_a_sentence(tmp_path, wrong):
    judged_run(tmp_path / "0-drift", "drift", [8])
    with open(tmp_path / "0-drift/iteration_1/wildbench/replies.jsonl", "a") as file:
        file.write(json.dumps({"prompt": [], "reply": "x", "key": "1", "judge": "m"} | wrong) + "\n")
    text = html.report_of(tmp_path / "0-drift").read_text()
    assert "a style is none that a benchmark gives" in text and "Figures that depend" not in text


@pytest.mark.skipif(find_spec("eval_framework") is None, reason="needs the extra: pip install 'drift[benchmarks]'")
def test_two_models_get_their_figures_from_one_command(tiny, qwen2, tmp_path):
    """The judge likes long replies. Both figures are those of the functions, from the replies that the command kept."""
    from drift.evaluate import evaluate

    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps(one) + "\n" for one in ROWS))

    def answers(body):
        length = len(body["messages"][-1]["content"])
        return json.dumps({"score": 1 + length % 10}) if "response_format" in body else f"[[{('A>B', 'B>>A')[length % 2]}]]"

    with Server(answers=answers) as server:
        asked = {
            "url": f"http://127.0.0.1:{server.server_port}/v1",
            "model": "m",
            "key_variable": "null",
            "cache_dir": tmp_path / "c",
        }
        known = {"path": tmp_path / "tasks.jsonl", "config": "null", "split": "null"}
        settings = [f"evaluation.wildbench.benchmark.{name}={value}" for name, value in known.items()]
        for name in ("wildbench", "arena_hard"):
            settings += [f"evaluation.{name}.endpoint.{key}={value}" for key, value in asked.items()]
            settings += [f"evaluation.{name}.num_prompts=5", f"evaluation.{name}.max_new_tokens=4"]
        more = [f"store.dir={tmp_path}/store", "num_perplexity_prompts=0", *settings]
        evaluate([str(tiny), str(qwen2)], ["wildbench", "arena_hard"], "all", tmp_path / "out", more)
    rows = list(csv.DictReader((tmp_path / "out/benchmarks.csv").open()))
    found = {(row["policy"], row["metric"]): float(row["value"]) for row in rows if row["metric"] in rated.MEANINGS}
    names = list(dict.fromkeys(row["policy"] for row in rows))
    kept = {
        (name, place): rated.judged(Reader(), tmp_path / "out" / name / place, "replies.jsonl")
        for name in names
        for place in ("wildbench", "arena_hard")
    }
    grades = {name: [Graded(key=row.key, grade=row.grade, reply=row.reply) for row in kept[name, "wildbench"]] for name in names}
    battles = {
        name: [arena_style.Fought(key=row.key, outcomes=row.outcomes, style=row.style) for row in kept[name, "arena_hard"]]
        for name in names
    }
    assert len(names) == 2 and {len(one) for one in kept.values()} == {5}
    assert found == pytest.approx(
        {(name, "WB-Elo"): one.elo for name, one in wildbench_elo.ratings(grades, {}, **wildbench_elo.PUBLISHED).items()}
        | {(name, rated.CONTROLLED): one.win_rate for name, one in arena_style.style_controlled(battles).items()}
    )
    page = (tmp_path / "out/benchmarks.md").read_text()
    assert "| WB-Elo |" in page and f"| {rated.CONTROLLED} |" in page and "\nWB-Elo: rating by the grades" in page
    assert all("the judge is m (http" in row["about"] and "Licence: " in row["about"] for row in rows)
