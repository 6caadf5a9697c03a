"""The studies of the paper: every one passes the check of its settings, and its report has the paper's figures beside its own."""

import re

import pytest
from conftest import ROOT
from test_report import state, write
from test_reward_model import write as write_reward_model

from drift.benchmark.alpacaeval import AlpacaEval
from drift.benchmark.wildbench_score import WildBenchScore
from drift.compose import compose
from drift.config import build
from drift.report import html, published
from drift.report.foreign import Reader
from drift.report.state import Member, Metric, Scores

PAPERS = sorted(file.stem for file in (ROOT / "conf/experiment").glob("paper-*.yaml"))
TABLES = {name: published.load(file) for name, file in published.known().items()}
SIZES = {"7B": "qwen2.5-7b-instruct", "14B": "qwen2.5-14b-instruct"}
NAMES = {"DRIFT": "drift", "SPIN": "spin", "IterDPO": "iterdpo", "start model": "any"}


@pytest.fixture(scope="module")
def here(tokenizer, tmp_path_factory):
    """What an experiment needs from a hub, in small: a data set, a model, and the reward model that the paper does not name."""
    folder = tmp_path_factory.mktemp("here")
    (folder / "log.jsonl").write_text("{}\n")
    reward = write_reward_model(tokenizer, folder / "reward")
    return ["model=tiny", "judge=reward_model", f"method.judge.path={reward}"], f"data.path={folder}/log.jsonl"


@pytest.mark.parametrize("name", PAPERS)
def test_every_experiment_of_the_paper_passes_the_check_of_its_settings(name, here):
    """With the methods that its sweep has; nothing but the model, the data set's place and the judge is replaced."""
    overrides, path = here
    plain = compose([f"experiment={name}"])
    if name not in TABLES:  # the settings of a size of model, on any data
        assert re.fullmatch(r"paper-\d+(\.\d+)?b(-q?lora-1gpu)?", name)
        build(compose([f"experiment={name}", "model=tiny", "data.second_tries=true"]))
        return
    for method in ("drift", "iterdpo", *(["spin"] if name == "paper-wildfeedback-full" else [])):
        given = [f"experiment={name}", *(overrides if method == "iterdpo" else overrides[:1]), path, f"method={method}"]
        run = build(compose(given), given)
        assert (run.warmup_epochs, run.train.learning_rate, run.sampler.max_new_tokens) == (3, 5e-7, 512)
        assert run.iterations == (5 if name == "paper-five-iterations" else 2)
        assert run.examples_per_iteration == (4000 if name == "paper-wildfeedback-controlled" else None)
        if method != "spin":
            assert run.method.guidance.share == (0 if name == "paper-unguided" else 1)
    assert plain.model.path == "Qwen/Qwen2.5-7B-Instruct"
    assert plain.data._target_.endswith("UltraFeedback" if name == "paper-ultrafeedback" else "WildFeedback")


def test_the_papers_gains_are_those_of_its_abstract_in_both_units():
    """+6.23 % and +8.95 points for 7B, on WildFeedback; +7.61 % and +12.29 points for 14B, on UltraFeedback."""
    for name, model, relative, points in (
        ("paper-wildfeedback-full", SIZES["7B"], "+6.23 %", "+8.95 points"),
        ("paper-ultrafeedback", SIZES["14B"], "+7.61 %", "+12.29 points"),
    ):
        rows = published.table(TABLES[name]["rows"], published.Study(members=[], in_full=[]))
        shown = [row["paper: against start"] for row in rows if (row["model"], row["method"]) == (model, "drift")]
        assert shown == [relative, "", points, ""]
        assert {row["obtained"] for row in rows} == {row["obtained: against start"] for row in rows} == {""}


@pytest.mark.parametrize("name", TABLES)
def test_the_page_of_a_study_has_the_figures_of_its_file(name):
    text = (ROOT / f"experiments/{name}/README.md").read_text()
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in re.findall(r"(?m)^\| (?:7B|14B) \|.*$", text)]
    found = [(SIZES[size], NAMES[method], after or "start", *values) for size, method, after, *values in lines]
    rows = TABLES[name]["rows"]
    metrics = [metric for metric in published.METRICS if rows and metric in rows[0]]
    show = lambda value: "" if value is None else f"{value:.2f}"  # noqa: E731
    assert found == [(row["model"], row["method"], row["policy"], *(show(row[metric]) for metric in metrics)) for row in rows]


def test_the_metrics_of_the_paper_are_those_of_the_benchmarks_here():
    """WB-Elo is of many models together, so no run measures it."""
    ours = {"wildbench": WildBenchScore.meanings, "alpacaeval": AlpacaEval.meanings}
    assert [name for name, metric in published.METRICS.items() if name not in ours[metric.evaluation]] == ["WB-Elo"]


def run_of(folder, method, *scores):
    """A run whose policies have these WB-Scores, the start model's first."""
    ran = state(method, 0, 0.0)
    ran.title["experiment"], ran.notes["model"] = "paper-wildfeedback-full", SIZES["7B"]
    first, second = ran.points
    ran.points = [first, second, type(second)(iteration=2, name="iteration 2")]
    for point, value in zip(ran.points, scores, strict=True):
        metric = Metric(value=value, per_item=None, digits=2)
        point.scores = {"wildbench": Scores(headline="WB-Score", metrics={"WB-Score": metric})}
    folder.mkdir(parents=True)
    write(folder, ran)
    return Member(folder=folder, state=ran)


def test_obtained_figures_stand_beside_the_papers(tmp_path):
    """From the runs' panels: DRIFT after its second iteration, 43 against 40, SPIN after its best one, the first. As soon as
    `drift evaluate` has measured a metric on all prompts, only such figures of it count: 44 against 40, and none of SPIN.
    Win rates are in points."""
    members = [run_of(tmp_path / "0-drift", "drift", 40.0, 45.0, 43.0), run_of(tmp_path / "1-spin", "spin", 40.0, 39.0, 30.0)]
    rate, score = "AlpacaEval 2 win rate, %", "WildBench task score"

    def obtained():
        (section,) = published.sections(tmp_path, members, Reader())
        return {
            (row["method"], row["metric"].split(" (")[0]): (row["obtained"], row["obtained: against start"])
            for row in section["rows"]
            if row["model"] == SIZES["7B"] and row["obtained"]
        }

    panels = {("", score): ("40.00", ""), ("drift", score): ("43.00", "+7.50 %"), ("spin", score): ("39.00", "-2.50 %")}
    assert obtained() == panels
    (tmp_path / "benchmarks").mkdir()
    rows = [("0-drift iteration 2", "wildbench", "WB-Score", 44), ("0-drift start", "alpacaeval", "win rate", 30)]
    rows += [("0-drift start", "wildbench", "WB-Score", 40)]
    rows += [("0-drift iteration 2", "alpacaeval", "win rate", 33.5), ("0-drift start", "alpacaeval", "LC win rate", "")]
    lines = ["policy,benchmark,metric,value", *(",".join(map(str, row)) for row in rows)]
    (tmp_path / "benchmarks/benchmarks.csv").write_text("\n".join(lines) + "\n")
    assert obtained() == {
        ("", score): ("40.00", ""), ("", rate): ("30.00", ""), ("drift", score): ("44.00", "+10.00 %"),
        ("drift", rate): ("33.50", "+3.50 points"),
    }  # fmt: skip
    page = html.study_report(tmp_path).read_text()
    assert "The paper&#39;s figures of paper-wildfeedback-full" in page or "The paper's figures of paper-wildfeedback-full" in page
    assert "<td>51.69</td>" in page and "<td>+6.23 %</td>" in page and "<td>44.00</td>" in page


def test_runs_with_different_settings_are_no_seeds_of_one_row(tmp_path):
    members = [run_of(tmp_path / f"{i}-drift", "drift", 40.0, 45.0, 43.0 + i) for i in range(2)]
    members.append(run_of(tmp_path / "2-spin", "spin", 40.0, 39.0, 30.0))
    for member, rate in zip(members, ("1e-6", "5e-6"), strict=False):
        member.state.title["train.learning_rate"] = rate
    (section,) = published.sections(tmp_path, members, Reader())
    assert {row["method"] for row in section["rows"] if row["obtained"]} == {"", "spin"}
    assert "drift, train.learning_rate=1e-6; drift, train.learning_rate=5e-6" in section["about"][-1]
