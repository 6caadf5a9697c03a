"""Names of files on the command line: whatever a file system allows is read, or refused with what to do."""

import os
import random
import shlex
import sys

import pytest
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf

from drift import run
from drift.compose import compose, explain
from drift.config import build
from drift.errors import UserError
from drift.intake.fields import ignoring
from drift.overrides import literal, override, quote_paths

NAMES = (
    "plain", "two words", "conversations (1)", "März 2026", "日本語ログ", "a=b", "it's mine", "the \"best\" one",
    "#1", "~", "~mine", "a,b", "{}", "{a: 1}", "${x}", "${oc.env:HOME}", "$HOME", "[1]", "2024", "1e5", "null",
    "true", "nan", "1_000", "a\\b", "x\\", "a:b", "a&b", "a;b", "!", "*", "choice(1,2)", "'quoted'", "a\nb", "tab\t",
    " space ", "-m", "a%b", "<a>", "\\${x}", "é🙂",
)  # fmt: skip


def read(argument):
    """The value that a part gets: Hydra parses the argument, the config is read, and once more when the part is built."""
    value = OverridesParser.create().parse_override(argument).value()
    for _ in range(2):
        value = OmegaConf.create({"value": value}).value
    return value


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in NAMES:
        (tmp_path / f"{name}.jsonl").write_text("{}\n")
        (tmp_path / name).mkdir()
        (tmp_path / name / "log.jsonl").write_text("{}\n")
    return tmp_path


def test_any_name_of_a_file_or_folder_is_read_as_it_is(files):
    for name in [*(f"{name}.jsonl" for name in NAMES), *NAMES, *(f"{files}/{name}.jsonl" for name in NAMES)]:
        assert read(override("data.path", name)) == name
        (argument,) = quote_paths([f"data.path={name}"])
        assert os.path.samefile(read(argument), name), (name, argument)
        assert read(quote_paths([f"+model.path={name}"])[0]) == read(argument)


def test_names_reach_the_run_that_mine_and_run_build(files):
    for name in ("conversations (1).jsonl", "${x}.jsonl", "2024", "~mine.jsonl"):
        for argument in (override("data.path", literal(name)), f"data.path={name}"):
            run = build(compose(["data=messages", "mine=rules", argument]))
            assert [file.read_text() for file in run.data.files()] == ["{}\n"], name


def test_a_name_goes_through_a_sweep_unharmed_and_several_files_are_several_members(files):
    names = ["März 2026.jsonl", "it's mine.jsonl", "a\\b.jsonl"]
    for wanted in (*([name] for name in names), names):
        parsed = OverridesParser.create().parse_overrides(quote_paths([f"data.path={','.join(wanted)}", "seed=0,1"]))
        members = BasicSweeper.split_arguments(parsed, None)[0]
        assert [read(member[0]) for member in members] == [name for name in wanted for _ in range(2)]


def test_random_names_are_read_as_they_are():
    rng = random.Random(0)
    signs = [
        "a",
        "'",
        '"',
        "\\",
        "$",
        "{",
        "}",
        "${",
        "\\${",
        " ",
        "=",
        ",",
        "é",
        "(",
        ")",
        "[",
        "]",
        "#",
        "~",
        ":",
        "1",
        "\t",
        "\n",
        "日",
    ]
    for _ in range(600):
        name = "".join(rng.choices(signs, k=rng.randint(1, 8)))
        assert read(override("data.path", name)) == name


def test_values_that_are_not_file_names_are_unchanged(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for argument in ("data.path=null", "data.path=x.jsonl,y.jsonl", "store.dir=${oc.env:HOME}/x", "data.path='März 2026.jsonl'",
                     "seed=0,1", "method=drift", "hydra.run.dir=outputs/${now:%Y}", "--cfg", "-m", "data.path=a"):  # fmt: skip
        assert quote_paths([argument]) == [argument]
    assert [read(quote_paths([f"data.path={name}"])[0]) for name in ("777", "false", "nobody (1)")] == [
        "777",
        "false",
        "nobody (1)",
    ]


def test_a_value_that_hydra_cannot_read_is_refused_with_the_quotes_that_it_needs():
    with pytest.raises(UserError) as refused:
        compose(["method.guidance.instruction=Try again (please)!"])
    quoted = shlex.split(str(refused.value).rpartition("for Hydra: ")[2])
    assert quoted == ["method.guidance.instruction='Try again (please)!'"] and read(*quoted) == "Try again (please)!"
    with pytest.raises(UserError, match="foo is not a setting. Expected the form key=value."):
        compose(["foo"])
    assert explain(ValueError("as it is")) == "as it is"
    ambiguous = HydraException("Ambiguous value for argument 'a.b=terse, and kind'\n1. To use it as a list, …")
    quoted = shlex.split(explain(ambiguous).split("for Hydra: ")[1].partition("; as a list")[0])
    assert quoted == ["a.b='terse, and kind'"] and read(*quoted) == "terse, and kind"


def test_settings_of_several_experiments_may_be_put_together():
    composed = compose(["experiment=[quickstart,fixed-log]"])
    assert composed.iterations == 5 and composed.objective.nll.weight == 0.4


def test_the_option_of_a_sweep_may_stand_after_a_setting(monkeypatch):
    """Hydra does not know the words after it there."""
    monkeypatch.setattr(sys, "argv", [])
    monkeypatch.setattr(run, "_run", lambda: None)
    run.main(["model=tiny", "-m", "seed=0,1"])
    assert sys.argv == ["drift run", "-m", "model=tiny", "seed=0,1"]


@pytest.mark.parametrize(
    "name", ["rating", "user-feedback", "Rating (1-5)", "score: user, total", "rating=", "Bewertung für", '"', "1"]
)
def test_a_field_to_ignore_is_written_as_a_shell_and_hydra_read_it(name):
    (typed,) = shlex.split(ignoring(name))
    assert compose(["data=messages", "data.path=x", typed]).data.ignore_fields == [name]
    if name.endswith(")"):
        with pytest.raises(UserError) as error:
            compose(["data=messages", "data.path=x", f"data.ignore_fields=[{name}, b]"])
        (better,) = shlex.split(str(error.value).split("for Hydra: ")[1])
        assert compose(["data=messages", "data.path=x", better]).data.ignore_fields == [name, "b"]


def test_a_name_that_is_not_utf8_is_refused():
    with pytest.raises(UserError, match="not valid UTF-8. Rename"):
        quote_paths(["data.path=\udcff.jsonl"])
