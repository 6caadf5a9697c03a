"""Folders of runs that somebody sent: whatever is in them, a report is built of what can be read, and the rest has a sentence."""

import json
import os

import pytest
from markupsafe import escape
from test_report import state

from drift.errors import UserError
from drift.report import foreign, html
from drift.report.settings import flat_yaml
from drift.report.shapes import MOST_LISTED, plain
from drift.report.state import VERSION

SECRET = "only for my eyes"
KEEP_POINTS = ("good", "1²2", "halves")
GOOD = plain(state("good", 0, 0.1))


def changed(*path, to):
    """The good run's state with something else at a place in it."""
    found = json.loads(json.dumps(GOOD))
    inner = found
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = to
    return json.dumps(found)


SCORES = ("points", 1, "scores", "deployment")
METRIC = (*SCORES, "metrics", "utility")
ODD = {
    "empty": ("", "Expecting value"),
    "no json": ("{", "Expecting property name"),
    "another program's": ("{}", "lacks data, error, notes, points, stages, status, title"),
    "of the version before, and odd": (
        json.dumps(
            {name: value for name, value in GOOD.items() if name != "version"} | {"points": [{"iteration": 0, "pairs": "x"}]}
        ),
        "points[0].examples: expected a whole number or null, found 'x'",
    ),
    "a list": ("[]", "expected an object, found []"),
    "a number": ("3", "expected an object, found 3"),
    "nothing": ("null", "expected an object, found None"),
    "nested without end": ('{"title": ' * 10**5, "it is nested too deeply"),
    "a number of 5000 digits": (f'{{"title": {"9" * 5000}}}', "4300 digits"),
    "no title": (changed("title", to=None), "title: expected an object, found None"),
    "a title without method": (changed("title", to={"seed": "0"}), "title lacks method"),
    "a number for a text": (changed("title", "seed", to=0), "title.seed: expected text, found 0"),
    "a text for a number": (changed("stages", 0, "seconds", to="2"), "stages[0].seconds: expected a number, found '2'"),
    "nan seconds": (changed("stages", 0, "seconds", to=float("nan")), "stages[0].seconds: expected a number, found nan"),
    "infinite memory": (changed("stages", 0, "peak_gib", to=float("inf")), "peak_gib: expected a number, found inf"),
    "a huge number": (changed("stages", 0, "seconds", to=10**400), "stages[0].seconds: expected a number, found 1000"),
    "a stage of nothing": (changed("stages", to=[{}]), "stages[0] lacks hit, name, peak_gib, seconds"),
    "digits without end": (changed(*METRIC, "digits", to=999999999), "digits: expected a whole number up to 12, found 999999999"),
    "digits as text": (changed(*METRIC, "digits", to="999999999"), "digits: expected a whole number up to 12, found '999999999'"),
    "items as a list": (changed(*METRIC, "per_item", to=[1.0]), "per_item: expected an object or null, found [1.0]"),
    "items of text": (changed(*METRIC, "per_item", to={"a": "b"}), "per_item.a: expected a number, found 'b'"),
    "no such headline": (
        changed(*SCORES, "headline", to="fame"),
        "points[1].scores.deployment: headline 'fame' is not one of its metrics",
    ),
    "a policy without a name": (changed("points", 0, to={"iteration": 0, "scores": GOOD["points"][0]["scores"]}), "lacks name"),
    "an evaluation that is a path": (
        changed("points", 0, "scores", to={"../x": GOOD["points"][0]["scores"]["deployment"]}),
        "'../x'",
    ),
    "very many evaluations": (changed("evaluations", to={str(i): {} for i in range(101)}), "evaluations: expected at most 100"),
    "of a later version": (changed("version", to=VERSION + 1), f"version {VERSION + 1}, and this program reads version {VERSION}"),
    "a version in words": (changed("version", to="two"), "version: expected a whole number, found 'two'"),
    "null for what may be missing": (changed("stages", 0, "hit", to=None), "stages[0].hit: expected true or false, found None"),
    "scores of the version before": (
        changed("points", 0, "scores", to={"headline": "utility", "metrics": {}}),
        "scores.headline: exp",
    ),
    "counts alone": (
        changed("points", to=[{"iteration": 1, "name": "x", "counts": {"seen": 1, "used": 1}}]),
        "has counts and lacks first_step",
    ),
    "counts of nothing": (changed("points", 1, "counts", to={}), "points[1] lacks counts.seen"),
    "points of text": (changed("points", to=["start"]), "points[0]: expected an object, found 'start'"),
    "very many points": (changed("points", to=[{"iteration": 1, "name": "x"}] * 1001), "points: expected at most 1000, found 1001"),
    "very many stages": (changed("stages", to=GOOD["stages"] * (MOST_LISTED + 1)), "stages: expected a list"),
    "alarms of text": (changed("alarms", to="fire"), "alarms: expected a list, found 'fire'"),
    "notes in a list": (changed("notes", to=["a"]), "notes: expected an object, found ['a']"),
    "an error in parts": (changed("error", to=["a"]), "error: expected text or null, found ['a']"),
    "status as a number": (changed("status", to=1), "status: expected text, found 1"),
    "data with objects": (changed("data", to={"a": {}}), "data.a: expected a whole number or a number or text or true or false"),
    "begun as a number": (changed("begun", to=2026), "begun: expected text, found 2026"),
    "true for a number": (
        changed("points", 1, "examples", to=True),
        "points[1].examples: expected a whole number or null, found True",
    ),
}


@pytest.fixture(scope="module")
def sent(tmp_path_factory):
    """A study of a good run and of all odd ones, and files of every kind that are not what a run writes: (folder, page)."""
    folder = tmp_path_factory.mktemp("sent")
    (folder / "private").mkdir()
    private = folder / "private/secret.txt"
    private.write_text(f"password: {SECRET}\n")
    sweep = folder / "study"
    for name, (text, _) in ODD.items():
        (sweep / name).mkdir(parents=True)
        (sweep / name / "run.json").write_text(text)

    def run(name, **files):
        (sweep / name / "iteration_1/deployment").mkdir(parents=True)
        (sweep / name / "run.json").write_text(
            json.dumps(plain(state(name, 0, 0.1)) | ({} if name in KEEP_POINTS else {"points": []}))
        )
        for file, text in files.items():
            place = (
                sweep / name / file.replace("__", "/").replace("_jsonl", ".jsonl").replace("_csv", ".csv").replace("_yaml", ".yaml")
            )
            place.write_text(text)

    run("good")
    run("linked")
    (sweep / "linked/config.yaml").symlink_to(private)
    (sweep / "linked/records.jsonl").symlink_to("../../private/secret.txt")
    (sweep / "linked/steps.csv").symlink_to("/dev/zero")
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere/run.json").write_text(json.dumps(plain(state("elsewhere", 0, 0.1)) | {"error": SECRET}))
    (sweep / "elsewhere").symlink_to(folder / "elsewhere")
    (sweep / "a link alone").mkdir()
    (sweep / "a link alone/run.json").symlink_to(folder / "elsewhere/run.json")
    run(
        "bombs",
        config_yaml="a: &a [x, x, x]\n"
        + "".join(f"{b}: &{b} [*{a}, *{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)),
    )
    run("deep", config_yaml="[" * 500, records_jsonl='[{"a": ' * 10**5 + "\n")
    os.mkfifo(sweep / "deep/steps.csv")
    run("long", config_yaml="a: b\n" * 10**5)
    with open(sweep / "long/records.jsonl", "w") as sparse:
        sparse.truncate(2**31)
    run(
        "words", steps_csv="iteration,step,loss\n1,1,much\n", records_jsonl="nobody said json\n", iteration_1__examples_jsonl="{}\n"
    )
    run(
        "halves",
        steps_csv="iteration,loss\n1,1,2\n",
        iteration_1__deployment__replies_jsonl='{"prompt": [], "reply": 3}\n',
        config_yaml="a: !!python/object:os.system [x]\n? [k]\n: v\n",
    )
    run(
        "broken",
        iteration_1__deployment__replies_jsonl='{"prompt": [], "reply": "\\ud800 said"}\n',
        config_yaml="a: '${oc.env:HOME}'\nb: !!python/object/apply:os.system ['touch x']\n",
    )
    run("1²2")
    (sweep / "good/iteration_1²/deployment").mkdir(parents=True)
    (sweep / "good/iteration_1²/deployment/replies.jsonl").touch()
    before = [member for member in sweep.iterdir()]
    text = html.report_of(sweep).read_text()
    assert sorted(before) == sorted(member for member in sweep.iterdir() if member.is_dir())
    return sweep, text


@pytest.mark.parametrize("name", ODD)
def test_an_odd_run_is_left_out_with_a_sentence_in_its_studys_report_and_refused_alone(sent, name):
    folder, text = sent
    said = f"{folder / name}/run.json was skipped, because it is not what a run writes: "
    escaped = str(escape(said)), str(escape(ODD[name][1]))
    assert any(escaped[0] in line and escaped[1] in line for line in text.splitlines()), ODD[name]
    with pytest.raises(UserError, match="run.json was skipped, because it is not what a run writes"):
        html.report_of(folder / name)


def test_the_other_members_are_in_the_report_whatever_lies_beside_them(sent):
    _, text = sent
    for name in ("good", "linked", "bombs", "deep", "long", "words", "halves", "broken", "1²2"):
        assert f"<b>method={name}, seed=0</b>" in text
    assert "good: after iteration 1, utility is" in text


def test_no_link_is_followed_out_of_a_folder(sent):
    folder, text = sent
    assert SECRET not in text and "after iteration 1" not in text.split("elsewhere: ")[-1][:30]
    for name in ("linked/config.yaml", "linked/records.jsonl", "linked/steps.csv", "elsewhere/run.json", "a link alone/run.json"):
        assert f"{folder / name} was skipped, because it is not what a run writes: it is a link to " in text


OTHERS = {
    "bombs/config.yaml": "it has aliases",
    "deep/config.yaml": "it is nested more than 30 deep",
    "deep/records.jsonl": "it is nested too deeply",
    "deep/steps.csv": "it is not a regular file",
    "long/config.yaml": "it has 500000 bytes, more than 262144",
    "long/records.jsonl": "it has 2147483648 bytes, more than 1073741824",
    "words/steps.csv": "could not convert string to float",
    "words/records.jsonl": "Expecting value",
    "halves/steps.csv": "",
    "halves/config.yaml": "one of its keys is not text",
    "halves/iteration_1/deployment/replies.jsonl": "line 1, reply: expected text, found 3",
}


@pytest.mark.parametrize("name", OTHERS)
def test_files_that_are_odd_are_left_out_with_the_reason(sent, name):
    folder, text = sent
    said = escape(f"{folder / name} was skipped, because it is not what a run writes: {OTHERS[name]}")
    assert str(said) in text


def test_nothing_in_a_config_is_built_or_filled_in():
    text = "a: ${oc.env:HOME}\nb: !!python/object/apply:os.system ['touch x']\nc: {d: 0.10, e: [x, {f: y}]}\ng: null\n"
    expected = {"a": "${oc.env:HOME}", "b": "touch x", "c.d": "0.10", "c.e": "x", "c.e.f": "y", "g": "null"}
    assert flat_yaml(text) == expected


def test_links_into_a_store_are_followed_only_to_the_same_file_of_a_stage(tmp_path):
    stage = tmp_path / "store/feedback" / ("0a" * 12)
    stage.mkdir(parents=True)
    (tmp_path / "run").mkdir()
    for name in ("records.jsonl", "other.jsonl"):
        (stage / name).touch()
    link = tmp_path / "run/records.jsonl"
    find = lambda: foreign.Reader().find(tmp_path / "run", "records.jsonl")  # noqa: E731
    link.symlink_to(stage / "records.jsonl")
    assert find() is None  # no stage is without a manifest
    (stage / "manifest.json").touch()
    assert find() == stage / "records.jsonl"
    link.unlink()
    link.symlink_to(stage / "other.jsonl")
    assert find() is None
