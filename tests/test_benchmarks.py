"""AlpacaEval, Arena-Hard and MT-Bench: equal to the packages' own functions, or by hand."""

import csv
import json
import math
import os
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
from conftest import ROOT

from drift.benchmark import alpacaeval, arena_hard, arena_style, length_control, mtbench
from drift.benchmark.alpacaeval import AlpacaEval, AlpacaTask, is_swapped
from drift.benchmark.arena_hard import ArenaHard, ArenaTask, Battle
from drift.benchmark.data import constants, wheel_files
from drift.benchmark.judged import Answer, Judged, Question, fill, turn_prompt, weighted
from drift.benchmark.mtbench import MtBench, MtBenchTask
from drift.errors import UserError

packaged = pytest.mark.skipif(find_spec("eval_framework") is None, reason="needs the extra: pip install 'drift[benchmarks]'")
MODULES = {  # of the package alpaca-eval: the judged against one
    "constants.py": "0ae112e43df345f87997d621760e55ede9bd2a2d50e49c6b54e308828ac171c6",
    "metrics/glm_winrate.py": "2bad5aacd48da13b85b4890289440fa59a01a87606746461d36d240964c1f702",
    "metrics/helpers.py": "405b0cd6787960f8158c4bc63c0bf1cf11a038a8ae69b89baa95b7ea83c50a90",
    "metrics/winrate.py": "4f3598d1e35ef0a79d9e119d0c2785f8d7513c6df4002c47ecada56e464b6a37",
    "processors.py": "d9e0235ddedabbc5adf301853cdbbe9e1df44553ef9a6304058571199be448c2",
    "types.py": "f072d25de85944b389db8c69a8de081531903681baed5ce7586905bfeb0b8cc7",
    "utils.py": "864e4a3b752fe0c4e3fb779e7f3d07635db707ed83dc9540a6f83ba16d85be17",
}


def said(text, **top_logprobs):
    return Answer(text=text, top_logprobs=top_logprobs or None)


def question(*, swapped=False):
    return Question(key="k", part="p", messages=[], swapped=swapped)


def test_a_placeholder_in_a_reply_stays_text_and_later_turns_follow_the_replies():
    assert fill("{a} and {b}, {c}", {"a": "{b}", "b": "1"}) == "{b} and 1, {c}"
    task = MtBenchTask(key="1", category="math", prompt=({"role": "user", "content": "x"},), follow_ups=("y",), references=())
    assert [m["content"] for m in turn_prompt(task, [])] == ["x"]
    assert [m["content"] for m in turn_prompt(task, ["r"])] == ["x", "r", "y"]


def test_contributions_average_to_the_weighted_mean_and_equal_values_have_no_spread():
    """The mean is 7.5, and the weights are 1.5 and 0.5 of the average one."""
    assert weighted({"a": 10.0, "b": 0.0}, {"a": 3.0, "b": 1.0}) == {"a": 7.5 + 1.5 * 2.5, "b": 7.5 - 0.5 * 7.5}
    assert weighted({"a": 7.0, "b": 7.0}, {"a": 2.0, "b": 1.0}) == {"a": 7, "b": 7}


# AlpacaEval


@pytest.mark.parametrize(
    ("answer", "preference"),
    [
        (said("M", m=math.log(0.2), M=math.log(0.6), Both=-9.0), 1.75),
        (said("M", M=-0.5), 2.0),
        (said("m", m=-0.5), 1.0),
        (said("Both", Both=-0.1), None),
        (said(" M\n"), 2.0),
        (said("m"), 1.0),
        (said("Model M"), None),
    ],
)
def test_a_preference_is_the_share_of_the_second_reply(answer, preference):
    bench = AlpacaEval(gamed=None, cache_dir=None)
    assert bench.read(question(), answer) == (None if preference is None else pytest.approx(preference))
    swapped = bench.read(question(swapped=True), answer)
    assert swapped == (None if preference is None else pytest.approx(3 - preference))


def test_the_win_rates_by_hand():
    figures = alpacaeval.summarise([1.0, 2.0, 1.5, 0.0, 1.2])  # 0 is a draw
    assert figures.win_rate == pytest.approx(100 * (0 + 1 + 0.5 + 0.5 + 0.2) / 5)
    assert figures.discrete == pytest.approx(100 * (0 + 1 + 0.5 + 0.5 + 0) / 5)
    assert (figures.wins, figures.losses, figures.draws, figures.total) == (1, 2, 2, 5)


def gamed_file(file, difficulty):
    """A table as the authors', with the two gamed models: one terse, one long."""
    rng = np.random.default_rng(7)
    file.parent.mkdir(parents=True)
    with open(file, "w", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(["model", *length_control.COLUMNS])
        for name, length in (("terse", 1.0), ("long", -1.0)):
            for i, hard in enumerate(difficulty):
                writer.writerow([name, float(rng.uniform(0, 0.3)), i, float(rng.normal(length, 0.5)), hard, False])
    return file


@pytest.mark.peer
def test_win_rates_and_orders_equal_those_of_the_package(tmp_path):
    """On 200 made-up annotations: close decisions, draws, and some without a preference."""
    rng = np.random.default_rng(3)
    difficulty = rng.normal(0, 1, 200)
    hub = tmp_path / "hub/datasets--tatsu-lab--alpaca_eval"
    gamed = gamed_file(hub / "snapshots/abc/df_gamed.csv", difficulty)
    (hub / "refs").mkdir()
    (hub / "refs/main").write_text("abc")
    rows = []
    for i in range(200):
        lengths = rng.integers(50, 3000, 2)
        share = 1 / (1 + math.exp(-np.tanh((lengths[1] - lengths[0]) / 900) + 0.4 - difficulty[i] - rng.normal()))
        preference = None if i % 23 == 5 else 1.5 if i % 19 == 4 else 1 + share
        rows.append({
            "index": i, "instruction": f"Say {i}.", "output_1": "b" * lengths[0], "output_2": "r" * lengths[1],
            "generator_1": "base", "generator_2": "mine", "annotator": "judge", "preference": preference,
        })  # fmt: skip
    (tmp_path / "annotations.json").write_text(json.dumps(rows))
    members = {f"alpaca_eval/{name}": sha256 for name, sha256 in MODULES.items()}
    folder = wheel_files(alpacaeval.WHEEL, members, None, setting="cache_dir")
    done = subprocess.run(
        [sys.executable, ROOT / "tests/alpaca_oracle.py", folder, tmp_path / "annotations.json"],
        env=os.environ | {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    theirs = json.loads(done.stdout)
    tasks = [
        AlpacaTask(
            key=f"{row['index']:03}", index=row["index"], prompt=(), instruction=row["instruction"], baseline=row["output_1"]
        )
        for row in rows
    ]
    judged = [
        Judged(task=task, replies=[row["output_2"]], verdicts=[row["preference"]]) for task, row in zip(tasks, rows, strict=True)
    ]
    bench = AlpacaEval(gamed=str(gamed), cache_dir=None)
    ours = bench.score(judged)
    assert list(ours) == list(bench.meanings)
    assert ours["LC win rate"]["value"] == pytest.approx(theirs["length_controlled_winrate"], abs=1e-9)
    lengths = [
        (task.index, one.verdicts[0], len(task.baseline) - len(one.replies[0])) for task, one in zip(tasks, judged, strict=True)
    ]
    predicted = length_control.predict(
        [length_control.Row(index=i, preference=verdict, length_difference=gap) for i, verdict, gap in lengths],
        length_control.load(gamed),
    )
    assert list(predicted.shares) == pytest.approx(theirs["shares"], abs=1e-9)
    assert list(ours["LC win rate"]["per_item"].values()) == pytest.approx(list(100 * predicted.contributions))
    assert ours["win rate"]["value"] == pytest.approx(theirs["win_rate"], abs=1e-9)
    assert ours["discrete win rate"]["value"] == pytest.approx(theirs["discrete_win_rate"], abs=1e-9)
    assert ours["unread verdicts"]["value"] == sum(row["preference"] is None for row in rows) == 9
    figures = alpacaeval.summarise([row["preference"] for row in rows if row["preference"] is not None])
    assert figures.standard_error == pytest.approx(theirs["standard_error"], abs=1e-9)
    counts = [theirs[name] for name in ("n_wins", "n_wins_base", "n_draws", "n_total")]
    assert [figures.wins, figures.losses, figures.draws, figures.total] == counts
    assert [is_swapped(row["instruction"]) for row in rows] == theirs["switched"] and 60 < sum(theirs["switched"]) < 140


def test_the_interval_of_the_length_controlled_win_rate_is_that_of_the_verdicts_and_not_of_the_predictions():
    """100 verdicts, a third of them unread. What each one moves, times n, is what leaving it out changes (all but the second order:
    within 15 % of the largest); an unread one moves nothing. The predictions alone spread much less: all share three numbers."""
    rng = np.random.default_rng(5)
    own = length_control.features(rng.normal(0, 1, 100), rng.normal(0, 1, 100), [1.0] * 100)
    shares = np.where(np.arange(100) % 3 == 0, np.nan, rng.integers(0, 2, 100).astype(float))
    level = own * [0, 1, 1]

    def fitted(kept):
        both, wins = np.concatenate([own[kept], own[kept]]), np.repeat([1, 0], kept.sum())
        weights = np.concatenate([shares[kept], 1 - shares[kept]])
        return length_control.fitted(both, wins, weights, 1e6, 0).coef_[0]

    known = ~np.isnan(shares)
    coefficients = fitted(known)
    predicted = length_control.sigmoid(level @ coefficients)
    found = length_control.influences(own, shares, own[known], np.ones(known.sum()), level, coefficients)
    left_out = [
        100 * (predicted.mean() - length_control.sigmoid(level @ fitted(known & (np.arange(100) != i))).mean()) for i in range(100)
    ]
    assert found == pytest.approx(np.array(left_out), abs=0.15 * np.abs(left_out).max())
    assert (found[~known] == 0).all() and found.std() > 3 * predicted.std() and abs(found.sum()) < 0.01 * np.abs(found).sum()


def test_a_wrong_table_for_the_length_control_is_a_sentence(tmp_path):
    (tmp_path / "df_gamed.csv").write_text("index,preference\n0,0.1\n")
    with pytest.raises(UserError, match="missing: std_delta_len, instruction_difficulty, not_gamed_baseline"):
        length_control.load(tmp_path / "df_gamed.csv")
    with pytest.raises(UserError, match="hf download --repo-type dataset tatsu-lab/alpaca_eval df_gamed.csv"):
        AlpacaEval(gamed="hub", cache_dir=None)._gamed()
    gamed = length_control.load(gamed_file(tmp_path / "new/df_gamed.csv", [0.5]))
    with pytest.raises(UserError, match="no difficulty for instruction 7"):
        length_control.predict([length_control.Row(index=7, preference=1.0, length_difference=3)], gamed)


@packaged
def test_alpacaeval_asks_the_package_s_question_and_equal_replies_are_draws():
    bench = AlpacaEval(gamed=None, cache_dir=None)
    bench.check()
    tasks = bench.tasks()
    assert len(tasks) == 805 and round(sum(len(task.baseline) for task in tasks) / 805, 1) == 2049.4
    asked = [bench.questions(task, ["My {output_1}."])[0] for task in tasks[:20]]
    assert {one.swapped for one in asked} == {True, False}
    for task, one in zip(tasks, asked, strict=False):
        assert [message["role"] for message in one.messages] == ["system", "user"]
        text = one.messages[1]["content"]
        first, second = (text.index(f'"output": """{reply}"""') for reply in (task.baseline, "My {output_1}."))
        assert task.instruction in text and (first > second) == one.swapped
    assert bench.questions(tasks[0], [tasks[0].baseline])[0].settled == 1.5


# Arena-Hard


@pytest.mark.parametrize(
    ("text", "points"),
    [
        ("[[A>>B]]", -2), ("I say [[A>B]]", -1), ("tie: [[A=B]].", 0), ("[[B>A]]", 1), ("First [[A>B]], finally [[B>>A]]", 2),
        ("[A>B]", -1), ("[[A>>>B]]", None), ("[[a>b]]", -1), ("[[B>>A]] or [[?]]", 2), ("A is better", None),
    ],
)  # fmt: skip
def test_a_label_is_read_strictly_and_the_last_one_counts(text, points):
    bench = ArenaHard(category="hard_prompt", weight=3)
    assert bench.read(question(), said(text)) == points
    assert bench.read(question(swapped=True), said(text)) == (None if points is None else -points)


def arena_task(key, subcategory):
    return ArenaTask(key=key, prompt=({"role": "user", "content": key},), subcategory=subcategory, baseline="base")


def test_much_better_replies_count_three_times_and_unread_prompts_are_left_out():
    bench = ArenaHard(category="hard_prompt", weight=3)
    verdicts = {"a": (2, 1), "b": (-1, 0), "c": (2, None)}  # a: 1 1 1 1; b: 0 ½
    judged = [
        Judged(task=arena_task(key, "coding" if key == "a" else "math"), replies=["r"], verdicts=v) for key, v in verdicts.items()
    ]
    metrics = bench.score(judged)
    assert list(metrics) == list(bench.meanings)
    assert metrics["win rate"]["value"] == pytest.approx(100 * 4.5 / 6)
    assert metrics["win rate"]["per_item"] == pytest.approx({"a": 75 + 25 * 4 / 3, "b": 75 - 50 * 2 / 3})
    assert metrics["win rate: coding"]["value"] == 100 and metrics["win rate: math"]["value"] == 25
    assert metrics["left out"]["value"] == 1 and metrics["unread verdicts"]["value"] == 1


def test_the_bradley_terry_fit_equals_a_generalised_linear_model_and_the_mean_without_style():
    import statsmodels.api as sm

    rng = np.random.default_rng(0)
    model = rng.integers(0, 3, 600)
    style = arena_style.standardised(rng.normal(model[:, None], 1.0, (600, 4)), np.ones(600))
    wins = np.round(2 / (1 + np.exp(-(0.5 * style[:, 0] + model - 1 + rng.logistic(size=600))))) / 2
    inputs = np.hstack([np.eye(3)[model], style])
    theirs = sm.GLM(wins, inputs, family=sm.families.Binomial()).fit(tol=1e-12).params
    assert set(wins) == {0, 0.5, 1}
    assert arena_style.fit(inputs, wins, np.ones(600)) == pytest.approx(1 / (1 + np.exp(-theirs)), abs=1e-6)
    plain = arena_style.fit(inputs[:, :3], wins, np.ones(600))
    assert plain == pytest.approx([wins[model == i].mean() for i in range(3)], abs=1e-6)


def test_the_style_differences_by_hand():
    """100 tokens against 50; 2 against 0 headers; equal list items per token + 1; no bold words."""
    found = arena_style.style_differences([(100, 2, 101, 0)], [(50, 0, 51, 0)])
    headers = 2 / 101
    assert found == pytest.approx(np.array([[50 / 150, headers / (headers + 1), 0, 0]]))


@packaged
def test_styles_equal_those_that_the_benchmark_ships_for_its_baselines():
    from drift.benchmark.data import packaged as file_of
    from drift.records import read_jsonl

    rows = read_jsonl(file_of("eval_framework", f"{arena_hard.DATA}/model_answer/gemini-2.0-flash-001.jsonl", "Arena-Hard"))[::10]
    shipped = [
        (about["token_len"], *(sum(about[f"{name}_count"].values()) for name in ("header", "list", "bold")))
        for about in (row["metadata"] for row in rows)
    ]
    assert len(rows) == 75
    assert arena_style.styles([row["messages"][-1]["content"]["answer"] for row in rows]) == shipped


@packaged
def test_under_style_control_a_model_does_not_win_by_length_alone():
    """The judge likes length and nothing else; one model writes more."""
    rng = np.random.default_rng(0)
    table, replies = {"wordy": [], "terse": []}, {"wordy": {}, "terse": {}}
    for key in map(str, range(120)):
        for name, low, high in (("wordy", 30, 120), ("terse", 15, 60)):
            length = int(rng.integers(low, high))
            replies[name][key] = "word " * length
            liked = (length - 50) / (length + 50) + rng.logistic(0, 0.25, 2) > 0
            table[name].append(Battle(key=key, points=tuple(1 if one else -1 for one in liked)))
    raw = {name: 50 + 25 * np.mean([sum(battle.points) for battle in table[name]]) for name in table}
    fought = {
        name: [arena_hard.fought_with(battle, replies[name][battle.key], "word " * 50, 3) for battle in battles]
        for name, battles in table.items()
    }
    found = arena_style.style_controlled(fought)
    assert raw["wordy"] - raw["terse"] > 25
    assert abs(found["wordy"].win_rate - found["terse"].win_rate) < 10
    assert all(one.low < one.win_rate < one.high for one in found.values())
    assert max(one.low for one in found.values()) < min(one.high for one in found.values())
    alone = arena_style.style_controlled({"terse": fought["terse"]})
    assert alone["terse"].win_rate == pytest.approx(raw["terse"], abs=3)  # a single model is compared at its own style


@packaged
def test_arena_hard_shows_both_orders_with_the_benchmark_s_instructions(tmp_path):
    for category, num, baseline in (("hard_prompt", 500, "o3-mini-2025-01-31"), ("creative_writing", 250, "gemini-2.0-flash-001")):
        bench = ArenaHard(category=category, weight=3)
        bench.check()
        assert len(bench.tasks()) == num and arena_hard.instructions()[1][category]["baseline"] == baseline
    task = bench.tasks()[0]
    first, second = bench.questions(task, ["{ANSWER_A}"])
    assert first.messages[0] == second.messages[0] and "[[A>>B]]" in first.messages[0]["content"]
    a, b = (one.messages[1]["content"] for one in (first, second))
    assert a.index(task.baseline) < a.index("{ANSWER_A}") and b.index("{ANSWER_A}") < b.index(task.baseline)
    assert (first.swapped, second.swapped) == (False, True)
    battles = [Battle(key="u", points=(2, -1)), Battle(key="v", points=(0, 1))]
    arena_hard.write_judgements(tmp_path / "m.jsonl", "m", "judge", "creative_writing", battles)
    with open(tmp_path / "m.jsonl", "a") as file:
        file.write(json.dumps({"uid": "w", "model": "m", "games": [{"score": "B=A"}, {"score": "B<<A"}]}) + "\n")
        file.write(json.dumps({"uid": "x", "model": "m", "games": [{"score": None}, {"score": "A>B"}]}) + "\n")
    games = json.loads((tmp_path / "m.jsonl").read_text().split("\n")[0])["games"]
    assert games == [{"score": "B>>A"}, {"score": "B>A"}]  # the model is B in the first, A in the second
    assert arena_hard.read_judgements(tmp_path / "m.jsonl") == {"m": [*battles, Battle(key="w", points=(0, 2))]}


@pytest.mark.parametrize(("answer", "points"), [
    ("I think [[A>B]].\nMy final verdict is: [[B>>A]]", -2), ("[[A<B]]", -1), ("Verdict: [b<<a]", 2), ("[[A=B]], as in x[[0]]", 0),
    ("[[C>A]]", None), ("A>B", None),
])  # fmt: skip
def test_arena_hard_takes_the_last_label_in_any_published_spelling(answer, points):
    """Shown second, the model's reply has the opposite points."""
    bench, found = ArenaHard(category="hard_prompt", weight=3), Answer(text=answer, top_logprobs=None)
    shown = [Question(key="u", part="", messages=[], swapped=swapped) for swapped in (True, False)]
    assert [bench.read(one, found) for one in shown] == [points, None if points is None else -points]


def test_constants_are_read_without_running_the_module(tmp_path):
    (tmp_path / "m.py").write_text('raise SystemExit\nA = ("x" "y")\nB = {"k": {"p": A}}\nC = open("no")\n')
    assert constants(tmp_path / "m.py") == {"A": "xy", "B": {"k": {"p": "xy"}}, "C": None}


# MT-Bench


@pytest.mark.parametrize(
    ("text", "rating"),
    [
        ("Rating: [[8]]", 8.0), ("[[7.5]] so [[7.5]]", 7.5), ("[[5]] or [[6]]", None), ("[[0]]", None), ("[[11]]", None),
        ("[8]", None), ("Rating: 8", None), ("[[rating]]", None), ("[[10]]", 10.0),
    ],
)  # fmt: skip
def test_a_rating_is_read_strictly(text, rating):
    assert MtBench(cache_dir=None).read(question(), said(text)) == rating


def test_ratings_are_averaged_by_turn_and_category():
    ratings = {"81": ("writing", (8.0, 6.0)), "82": ("writing", (4.0, None)), "101": ("math", (1.0, 2.0))}
    judged = [
        Judged(
            task=MtBenchTask(key=key, category=category, prompt=(), follow_ups=("",), references=()), replies=["", ""], verdicts=v
        )
        for key, (category, v) in ratings.items()
    ]
    bench = MtBench(cache_dir=None)
    metrics = bench.score(judged)
    assert list(metrics) == list(bench.meanings)
    values = {name: one["value"] for name, one in metrics.items()}
    assert values["MT-Bench"] == pytest.approx((8 + 6 + 4 + 1 + 2) / 5)
    assert values["MT-Bench: turn 1"] == pytest.approx((8 + 4 + 1) / 3) and values["MT-Bench: turn 2"] == (6 + 2) / 2
    assert values["MT-Bench: writing"] == pytest.approx((8 + 6 + 4) / 3) and values["MT-Bench: math"] == 1.5
    assert values["MT-Bench: coding"] is None and values["unread verdicts"] == 1
    assert sum(metrics["MT-Bench"]["per_item"].values()) / 3 == pytest.approx(values["MT-Bench"])


def test_the_judge_of_mt_bench_sees_references_where_there_are_some_and_both_turns_in_the_second_question():
    bench = MtBench(cache_dir=None)
    bench.check()
    tasks = bench.tasks()
    counts = {category: sum(task.category == category for task in tasks) for category in mtbench.CATEGORIES}
    assert set(counts.values()) == {10} and len(tasks) == 80
    for category in ("writing", "math"):
        task = next(task for task in tasks if task.category == category)
        first, second = (one.messages[1]["content"] for one in bench.questions(task, ["reply 1 {answer}", "reply 2"]))
        assert "reply 1 {answer}" in first and "reply 2" not in first and '"[[rating]]"' in first
        assert second.index("reply 1 {answer}") < second.index(task.follow_ups[0]) < second.index("reply 2") or category == "math"
        assert [text in second for text in task.references] == ([True, True] if category == "math" else [])
    assert {task.category for task in tasks if task.references} == set(mtbench.WITH_REFERENCE)


@packaged
def test_every_benchmark_runs_as_its_contract_says_and_a_constant_judge_tells_nothing():
    """A judge that always prefers what it sees first: both orders cancel it in Arena-Hard, and random orders do in AlpacaEval."""
    for bench, text, headline in (
        (MtBench(cache_dir=None), "[[5]]", lambda asked: 5),
        (ArenaHard(category="hard_prompt", weight=3), "[[A>>B]]", lambda asked: 50),
        (AlpacaEval(gamed=None, cache_dir=None), "m", lambda asked: 100 * sum(one.swapped for one in asked) / len(asked)),
    ):
        judged, asked = [], []
        for task in bench.tasks()[:30]:
            replies = []
            for _ in range(1 + len(task.follow_ups)):
                replies.append(f"reply to {turn_prompt(task, replies)[-1]['content'][:9]}")
            questions = bench.questions(task, replies)
            asked += questions
            judged.append(Judged(task=task, replies=replies, verdicts=[bench.read(one, said(text)) for one in questions]))
        metrics = bench.score(judged)
        assert metrics[bench.headline]["value"] == pytest.approx(headline(asked))
        assert metrics["unread verdicts"]["value"] == 0 and set(metrics) <= set(bench.meanings)


def test_a_file_of_a_wheel_with_another_checksum_is_not_used(tmp_path):
    import zipfile

    from drift.wheel import check_requirement, unpack

    with zipfile.ZipFile(tmp_path / "w.whl", "w") as wheel:
        wheel.writestr("data/file.txt", "x")
    with pytest.raises(UserError, match="data/file.txt in w.whl has sha256 2d71.*, expected 00: it is not used"):
        unpack(tmp_path / "w.whl", {"data/file.txt": "00"}, tmp_path)
    with pytest.raises(UserError, match="w.whl has no file other.txt"):
        unpack(tmp_path / "w.whl", {"other.txt": "00"}, tmp_path)
    with pytest.raises(UserError, match="package=w: expected an exact requirement, name==version"):
        check_requirement("w", "package")


def test_a_missing_package_is_a_sentence_with_the_command(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    arena_hard.instructions.cache_clear()
    with pytest.raises(
        UserError, match=r"Arena-Hard needs the package eval_framework. Install it: pip install 'drift\[benchmarks\]'"
    ):
        ArenaHard(category="hard_prompt", weight=3).check()
