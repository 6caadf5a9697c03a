"""WildBench: the published figures from the published files; scores, rewards and the official files by hand."""

import json
import os
import random
from pathlib import Path

import numpy as np
import pytest

from drift.benchmark import wildbench_elo
from drift.benchmark.judged import Answer, Judged
from drift.benchmark.wildbench import CUT, Compared, Graded, as_task, contributions, load_template, macro
from drift.benchmark.wildbench_files import read_grades, read_pairs, read_replies, write_grades, write_pairs, write_replies
from drift.benchmark.wildbench_reward import EMPTY, WildBenchReward, shorten, summarise, swapped_keys
from drift.benchmark.wildbench_score import WildBenchScore
from drift.benchmark.wildbench_score import summarise as summarise_grades
from drift.errors import UserError

PUBLISHED = os.environ.get("DRIFT_WILDBENCH", "")
published = pytest.mark.skipif(not PUBLISHED, reason="DRIFT_WILDBENCH does not name a folder with WildBench's published files")
PLANNING, CREATIVE, MATHS = "Planning & Reasoning", "Creative Tasks", "Math & Data Analysis"


@published
def test_the_published_score_file_gives_the_published_figures_to_the_last_digit():
    scores = summarise_grades(read_grades(Path(PUBLISHED) / "gemma-2b-it.json.gz"), {})
    board = json.loads((Path(PUBLISHED) / "leaderboard_scores.json").read_text())["gemma-2b-it"]
    assert (scores.score, scores.adjusted) == (board["score"], board["adjusted_score"])
    assert (scores.total, scores.length) == (board["total"], board["avg_len"]) == (1021, 1590.0833333333333)


@published
def test_the_groups_of_every_published_model_give_its_published_macro_score():
    board = json.loads((Path(PUBLISHED) / "leaderboard_scores.json").read_text())
    assert len(board) == 29
    for model, row in board.items():
        assert macro(row["task_categorized_scores"]) == row["task_macro_score"] == row["adjusted_task_macro_score"], model
        assert (row["score"] - 5) * 2 == row["adjusted_score"], model


def row(key, *tags, content="Plan my day."):
    return {
        "session_id": key, "checklist": ["Is it short?", "Is it kind?"], "primary_tag": tags[0], "secondary_tags": list(tags[1:]),
        "conversation_input": [
            {"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello!"}, {"role": "user", "content": content}
        ],
    }  # fmt: skip


ROWS = [row("a", "Planning"), row("b", "Editing", "Reasoning", "Planning"), row("c", "Others"), row("d", "Math"), row("e", "Math")]


@pytest.fixture
def data(tmp_path):
    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps(one) + "\n" for one in ROWS))
    return str(tmp_path / "tasks.jsonl")


@pytest.fixture
def bench(data):
    return WildBenchScore(path=data, config=None, split=None, template=None)


GRADED = [
    Graded(key="a", grade=8, reply="four"),
    Graded(key="b", grade=6, reply="sixsix"),
    Graded(key="c", grade=1, reply=""),
    Graded(key="d", grade=10, reply="cut" + CUT),
]
GROUPS_OF = {one["session_id"]: as_task(one, "here").groups for one in ROWS}


def test_empty_and_cut_off_replies_count_in_the_plain_mean_only():
    scores = summarise_grades(GRADED, GROUPS_OF)
    assert (scores.score, scores.adjusted, scores.total, scores.length) == (6.25, 2.5, 4, 5.0)
    assert scores.groups == {PLANNING: (7 - 5) * 2, CREATIVE: (6 - 5) * 2}
    assert scores.macro == pytest.approx((4 * 1.25 + 2 * 0.5) / 1.75)


def test_the_contributions_of_tasks_average_to_the_macro_score():
    """a counts once among two plans, whose mean is 40, b once among two plans and once as the only creative task."""
    parts, macro_score = contributions({"a": 60.0, "b": 20.0}, GROUPS_OF), 10 * (4 * 1.25 + 2 * 0.5) / 1.75
    assert parts == pytest.approx({"a": macro_score + 20 * 1.25 / 1.75, "b": macro_score - 20 * 1.25 / 1.75})
    assert sum(parts.values()) / 2 == pytest.approx(macro_score)
    assert contributions({"a": 20.0, "b": 20.0}, GROUPS_OF) == pytest.approx({"a": 20, "b": 20}), "no spread, whatever the weights"


def test_the_metrics_leave_out_what_the_judge_did_not_say_and_count_it(bench):
    replies = {"a": "four", "b": "sixsix", "c": "", "d": "seven", "e": "?"}
    grades = {"a": 8.0, "b": 6.0, "c": 1.0, "d": 3.0, "e": None}
    judged = [Judged(task=task, replies=[replies[task.key]], verdicts=[grades[task.key]]) for task in bench.tasks()]
    metrics = bench.score(judged)
    assert list(metrics) == list(bench.meanings)
    assert metrics["grade"]["value"] == (8 + 6 + 1 + 3) / 4 and metrics["unread verdicts"]["value"] == 1
    assert metrics["WB-Score"]["value"] == pytest.approx(10 * (4 * 1.25 + 2 * 0.5 - 4 * 1) / 2.75)
    parts = metrics["WB-Score"]["per_item"]
    assert sum(parts.values()) / 3 == pytest.approx(metrics["WB-Score"]["value"]) and set(parts) == {"a", "b", "d"}
    assert metrics[f"WB-Score: {PLANNING}"]["value"] == 40 and metrics[f"WB-Score: {MATHS}"]["value"] == -40
    assert metrics["reply length"]["value"] == (4 + 6 + 5) / 3


def test_a_policy_that_says_nothing_is_no_better_than_a_bad_one(bench, versus):
    """The published figures would be 0 for both: the grades count instead (1 is -80), and an empty reply loses."""
    silent = [Judged(task=task, replies=[""], verdicts=[1.0]) for task in bench.tasks()]
    measured = bench.score(silent)
    assert measured["WB-Score"]["value"] == pytest.approx(-80) and measured["WB-Score"]["value"] < 10 * -4 * 1
    silent = [Judged(task=task, replies=[""], verdicts=[0.0]) for task in versus.tasks()]
    measured = versus.score(silent)
    assert measured["WB-Reward"]["value"] == pytest.approx(-100) and measured["left out"]["value"] == len(silent)


@pytest.mark.parametrize(
    ("text", "grade"),
    [
        ('{"strengths": "s", "weaknesses": "w", "score": "7"}', 7.0),
        ('```json\n{"score": 7.5}\n```', 7.5),
        ('{"score": "11"}', None),
        ('{"score": 0}', None),
        ('{"score": true}', None),
        ('{"score": "nan"}', None),
        ('My grade: {"score": "7"}', None),
        ('{"score": "7"', None),
        ("[7]", None),
        ("7", None),
    ],
)
def test_a_grade_is_read_from_a_json_object_or_not_at_all(bench, text, grade):
    assert bench.read(None, Answer(text=text, top_logprobs=None)) == grade


def test_the_judge_sees_history_checklist_and_a_reply_whose_placeholders_stay_text(bench):
    task = bench.tasks()[0]
    (question,) = bench.questions(task, ["Get up {$checklist}."])
    text = question.messages[0]["content"]
    assert "USER: Hi.\n\nASSISTANT: Hello!\n\n" in text and "- Is it short?\n- Is it kind?\n" in text
    assert "<reply>\nGet up {$checklist}.\n</reply>" in text and "<message>\nPlan my day.\n</message>" in text
    assert [(one.settled, one.messages) for one in bench.questions(task, [" \n"])] == [(1.0, [])]


PAIRS = [  # points, reply, baseline
    (1.0, "r" * 10, "b" * 5),
    (0.5, "r" * 700, "b" * 100),  # a slight win, 600 characters longer
    (-0.5, "r" * 100, "b" * 601),  # a slight loss, the baseline 501 characters longer
    (-0.5, "r" * 100, "b" * 600),  # 500 characters: not more than the margin
    (0.0, "r", "b"),
    (1.0, EMPTY, "b"),
    (-1.0, "r", "b" + CUT),
    (1.0, "r" * 9000, "b"),  # much better: no penalty
]


@pytest.mark.parametrize(
    ("margin", "outcomes", "reward"), [(500, (2, 0, 3, 1, 0), (2 - 0.5) / 8), (None, (2, 1, 1, 2, 0), (2 + 0.5 - 1) / 8)]
)
def test_a_slight_win_by_a_much_longer_reply_is_a_tie(margin, outcomes, reward):
    rows = [Compared(key=str(i), points=points, reply=reply, baseline=base) for i, (points, reply, base) in enumerate(PAIRS)]
    groups = {str(i): (PLANNING if i < 2 else CREATIVE,) for i in range(8)}
    rewards = summarise(rows, groups, margin)
    assert tuple(rewards.outcomes.values()) == outcomes and rewards.reward == reward and rewards.total == 8
    planning, creative = (0.5, (0 - 0.5 + 0 + 1) / 4) if margin else (0.75, (-0.5 - 0.5 + 0 + 1) / 4)
    assert rewards.groups == {CREATIVE: creative, PLANNING: planning}
    assert rewards.macro == pytest.approx((creative * 0.5 + planning * 1.25) / 1.75)
    assert rewards.length == (10 + 700 + 100 + 100 + 1 + 9000) / 6


@pytest.fixture
def versus(data, tmp_path):
    base = [{"session_id": key, "output": [f"base {key}"], "generator": "old"} for key in "abcde"]
    (tmp_path / "old-1024.json").write_text(json.dumps(base))
    return WildBenchReward(
        path=data, config=None, split=None, template=None, baseline=str(tmp_path / "old-1024.json"), length_margin=500,
        max_words=4, order_seed=42,
    )  # fmt: skip


def test_the_order_of_the_replies_is_drawn_once_for_all_tasks_and_undone(versus):
    versus.check()
    drawn = random.Random(42)
    expected = {key for key in "abcde" if drawn.random() >= 0.5}
    assert swapped_keys(tuple("abcde"), 42) == expected == {"a", "e"}
    for task in versus.tasks():
        (question,) = versus.questions(task, ["one two three four five"])
        a, b = (question.messages[0]["content"].split(f"<reply-{letter}>\n")[1].split("\n</")[0] for letter in "ab")
        shown = ["one two three four" + CUT, f"base {task.key}"]
        assert [a, b] == (shown[::-1] if task.key in expected else shown) and question.swapped == (task.key in expected)
        points = versus.read(question, Answer(text='{"choice": "A++"}', top_logprobs=None))
        assert points == (-1.0 if task.key in expected else 1.0)
    assert versus.read(question, Answer(text='{"choice": "A"}', top_logprobs=None)) is None


def test_a_key_holds_contents_and_not_paths(versus, data, tmp_path):
    def moved(name, change):
        (tmp_path / name).write_text(change((tmp_path / "tasks.jsonl").read_text()))
        return WildBenchScore(path=str(tmp_path / name), config=None, split=None, template=None).key()

    same, other = moved("same.jsonl", str), moved("other.jsonl", lambda text: text.replace("Is it kind?", "Is it blunt?", 1))
    assert same == WildBenchScore(path=data, config=None, split=None, template=None).key() != other
    (tmp_path / "new.json").write_text(Path(versus.baseline).read_text().replace("base a", "base b"))
    assert WildBenchReward(**{**vars(versus), "baseline": str(tmp_path / "new.json")}).key() != versus.key()


def test_the_rewards_metrics_by_hand(versus):
    """a: a win of 1 (Planning). b: a slight loss (Creative, Planning). c: an empty reply. d: unread. e: a tie (Math)."""
    replies, points = (
        dict(zip("abcde", ["x", "y", "", "z", "w"], strict=True)),
        {"a": 1.0, "b": -0.5, "c": 0.0, "d": None, "e": 0.0},
    )
    judged = [Judged(task=task, replies=[replies[task.key]], verdicts=[points[task.key]]) for task in versus.tasks()]
    metrics = versus.score(judged)
    assert list(metrics) == list(versus.meanings)
    values = {name: one["value"] for name, one in metrics.items()}
    assert values["WB-Reward"] == pytest.approx(100 * (0.25 * 1.25 - 0.5 * 0.5 + 0 * 1) / 2.75)
    assert sum(metrics["WB-Reward"]["per_item"].values()) / 3 == pytest.approx(values["WB-Reward"])
    assert values["plain reward"] == 100 * 0.5 / 4 and values["left out"] == 1 and values["unread verdicts"] == 1
    assert [values[name] for name in ("much better", "slightly better", "tie", "slightly worse")] == [1 / 3, 0, 1 / 3, 1 / 3]
    assert versus.questions(versus.tasks()[2], [""])[0].settled == 0.0


def test_a_text_is_shortened_at_single_spaces():
    assert shorten("a b c", 3) == "a b c" and shorten("a  b c", 3) == "a  b" + CUT


def test_votes_need_two_whole_replies_and_a_much_longer_reply_only_ties():
    def grades(**of):
        return [Graded(key=key, grade=grade, reply=reply) for key, (grade, reply) in of.items()]

    table = {
        "m": grades(a=(7, "x"), b=(6, "x"), c=(9, "x" * 1502), d=(9, ""), e=(8, "x")),
        "n": grades(a=(5, "x"), b=(7, "x"), c=(2, "x"), d=(1, "x"), e=(8, "x" + CUT)),
        "o": grades(a=(9, "x")),
    }
    cast = wildbench_elo.votes(table, margin=2, tie_margin=2, length_margin=1500)
    assert cast == [("m", "n", 1.0), ("m", "o", 0.0), ("n", "o", 0.0), ("m", "n", 0.5), ("m", "n", 0.5)]
    assert len(wildbench_elo.votes(table, margin=2, tie_margin=0, length_margin=1500)) == 4  # b differs by 1


def test_elo_ratings_by_hand():
    """From 1000 each, a win moves 4 / 2 points. A model anchored at 1100 is expected to win .640 against one at 1000; its first
    update is pulled halfway back, its second one not."""
    expected = 1 / (1 + 10**-0.25)

    def after(cast, anchors):
        models, elo = wildbench_elo.play(cast, np.arange(len(cast))[None], anchors, 4, 100)
        return dict(zip(models, elo[0], strict=True))

    assert after([("m", "n", 1.0)], {}) == {"m": 1002, "n": 998}
    once = 1100 + 4 * (1 - expected) / 2
    assert after([("m", "n", 1.0)], {"m": 1100.0})["m"] == pytest.approx(once)
    twice = after([("m", "n", 1.0), ("m", "o", 1.0)], {"m": 1100.0})
    assert twice["m"] == pytest.approx(once + 4 * (1 - 1 / (1 + 10 ** ((1000 - once) / 400))))
    table = {name: [Graded(key="a", grade=grade, reply="x")] for name, grade in (("m", 8), ("n", 5), ("o", 5))}
    found = wildbench_elo.ratings(table, {"n": 1000.0, "o": 1000.0}, **wildbench_elo.PUBLISHED)
    gain = 4 * (1 - 1 / (1 + 10 ** (-2 / 400)))  # of the second win: m at 1002 against 1000
    assert (found["m"].elo, found["m"].low, found["m"].high) == pytest.approx((1002 + gain,) * 3)
    assert (found["n"].low, found["n"].high) == pytest.approx((999, 1000 - gain / 2))


def test_the_official_files_are_written_and_read_whatever_their_names(bench, tmp_path):
    write_grades(tmp_path / "m-1024.json", "m", GRADED, {"a": {"strengths": "s", "weaknesses": "w", "score": "8"}})
    assert read_grades(tmp_path / "m-1024.json") == GRADED
    first = json.loads((tmp_path / "m-1024.json").read_text())[0]
    assert first["score"] == "8" and first["model_test"] == "m" and first["parsed_result"]["strengths"] == "s"
    rows = [
        Compared(key=key, points=points, reply=f"r{key}", baseline="b") for key, points in zip("abc", (1.0, -0.5, 0.0), strict=True)
    ]
    write_pairs(tmp_path / "p.json", "m", "old", rows, frozenset("a"))
    assert read_pairs(tmp_path / "p.json", "m") == rows
    choices = [
        (one["model_A"], one["parsed_result"]["choice"], one["winner"], one["extent"])
        for one in json.loads((tmp_path / "p.json").read_text())
    ]
    assert choices == [("old", "B++", "m", 2), ("m", "B+", "old", 1), ("m", "A=B", "tie", 0)]
    replies = {task.key: f"reply {task.key}" for task in bench.tasks()}
    write_replies(tmp_path / "r.json", "m", replies, bench.tasks(), {"temperature": 0})
    assert read_replies(str(tmp_path / "r.json")) == replies


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"primary_tag": "Cooking"}, r"tasks.jsonl, row 1: the tag Cooking is none of WildBench's: Advice seeking"),
        ({"checklist": "short"}, r"row 1: checklist: expected list, found str"),
        ({"conversation_input": []}, r"row 1: conversation_input: expected messages that end with the user's"),
    ],
)
def test_a_wrong_row_is_a_sentence_with_file_row_and_field(tmp_path, change, said):
    (tmp_path / "tasks.jsonl").write_text(json.dumps(ROWS[0] | change) + "\n")
    with pytest.raises(UserError, match=said):
        WildBenchScore(path=str(tmp_path / "tasks.jsonl"), config=None, split=None, template=None).check()


def test_what_else_is_missing_is_a_sentence(tmp_path, versus):
    with pytest.raises(UserError, match="hf download --repo-type dataset allenai/WildBench"):
        WildBenchScore(path="allenai/WildBench", config="v2", split="test", template=None).check()
    (tmp_path / "mine.txt").write_text("Grade {$model_output}.")
    with pytest.raises(UserError, match=r"the placeholder \{\$history\} is missing"):
        load_template(str(tmp_path / "mine.txt"), "wildbench-score.txt", ["model_output", "history"])
    (tmp_path / "few.json").write_text(json.dumps([{"session_id": "a", "output": "x"}]))
    with pytest.raises(UserError, match="no reply to 4 tasks, for example b"):
        WildBenchReward(**{**vars(versus), "baseline": str(tmp_path / "few.json")}).check()
    (tmp_path / "bad.json").write_text('[{"session_id": "a", "score": "good", "model_output": "x"}]')
    with pytest.raises(UserError, match="bad.json, row 1: score: expected a number, found 'good'"):
        read_grades(tmp_path / "bad.json")
