"""The ranking study's scripts: settings compose, the choice is the best one, one failed run ends nothing, figures can be kept."""

import importlib.util
import json
import subprocess
import sys
import time

import pytest
from conftest import ROOT, compose
from omegaconf import OmegaConf
from test_report import state, write

from drift.config import build
from drift.errors import UserError
from drift.report.shapes import plain


def script(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / f"experiments/embedded-ranking/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


ranking, kept = script("study"), script("kept")


class Cell(ranking.Cell):
    """Its runs only write down what a run of that gain would."""

    def __init__(self, folder, name, seeds, gain=0.1):
        super().__init__(folder, "tune", name, [], seeds)
        self.gain = gain

    def start(self, seed):
        place = self.place(seed)
        place.mkdir(parents=True)
        if self.gain is None:
            return subprocess.Popen([sys.executable, "-c", "raise SystemExit(1)"])
        (place / "state").write_text(json.dumps(plain(state(self.name, seed, self.gain))))
        return subprocess.Popen(["mv", str(place / "state"), str(place / "run.json")])


@pytest.mark.slow
def test_every_arm_and_configuration_composes_and_arms_differ(tmp_path):
    tune = ranking.tuning(tmp_path)
    assert {len(cells) for cells in tune.values()} == {4} and len(tune) == 6
    texts = {
        OmegaConf.to_yaml(compose(*cell.overrides)) for cells in tune.values() for cell in cells if build(compose(*cell.overrides))
    }
    assert len(texts) == 6 * 4
    changed = [ranking._with(["method=drift", "train.loss.nll=0.1"], changes) for changes in ranking.CALM.values()]
    assert all(compose(*overrides) is not None for overrides in changed)
    assert changed[1] == ["method=drift", "train.loss.nll=1"]


def test_nothing_is_tested_before_all_is_tuned_and_runs_with_other_settings_do_not_count(tmp_path, monkeypatch):
    """`main` with runs that are made up: all of tune but one first, then the whole of it."""
    asked = []
    monkeypatch.setattr(ranking, "perform", lambda cells, latest: asked.extend(cell.folder.name for cell in cells))
    monkeypatch.setattr(ranking, "show_tuning", lambda *found: None)
    monkeypatch.setattr(ranking, "show_tests", lambda *found: None)
    monkeypatch.setattr(sys, "argv", ["study.py", str(tmp_path)])
    cells = [cell for cells in ranking.tuning(tmp_path).values() for cell in cells]
    for cell in cells:
        for seed in cell.seeds:
            cell.place(seed).mkdir(parents=True)
            member = state("drift", seed, 0.1)
            member.title |= {name: value for name, _, value in (item.partition("=") for item in cell.overrides)}
            member.points[1].name = "warm start" if cell.name.startswith("warm") else "iteration 2"
            write(cell.place(seed), member)
    other = cells[0].place(100) / "run.json"
    whole = other.read_text()
    other.write_text(whole.replace("0.0003", "0.0004"))
    assert cells[0].state(100) is None and cells[0].state(101) is not None
    for text, phases in ((other.read_text(), {"tune"}), (whole, {"tune", "test", "long", "guided", "calm"})):
        other.write_text(text)
        asked.clear()
        with pytest.raises(SystemExit, match="the same command goes on"):
            ranking.main()
        assert set(asked) == phases


def test_a_run_that_fails_is_told_of_and_ends_nothing(tmp_path, capsys):
    cells = [Cell(tmp_path, "bad", (0,), None), Cell(tmp_path, "good", (0, 1))]
    ranking.perform(cells, time.monotonic() + 60)
    assert [cell.done for cell in cells] == [False, True]
    said = capsys.readouterr().out
    assert "tune/bad, seed 0: FAILED" in said and "3 of 3" in said


def test_nothing_begins_when_the_time_is_up_and_begun_runs_do_not_count(tmp_path):
    cell = Cell(tmp_path, "late", (0, 1))
    ranking.perform([cell], time.monotonic())
    assert cell.states() == []
    cell.place(0).mkdir(parents=True)
    write(cell.place(0), state("late", 0, 0.1, status="running"))
    assert cell.states() == [] and not cell.done


@pytest.mark.slow
def test_the_best_configuration_is_that_of_the_highest_mean_gain(tmp_path, monkeypatch):
    monkeypatch.setattr(ranking, "last_policy", lambda arm: "iteration 1")
    cells = [Cell(tmp_path, f"SPIN-{i}", ranking.TUNE_SEEDS, gain) for i, gain in enumerate((0.1, 0.3, 0.2, 0.3))]
    ranking.perform(cells, time.monotonic() + 60)
    assert cells[1].gains("iteration 1") == pytest.approx([0.3, 0.3])
    assert ranking.best("SPIN", cells) == ranking.CONFIGS["SPIN"][1]


def test_a_choice_that_lies_there_leaves_tuning_out_and_a_foreign_one_is_refused(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(ranking, "perform", lambda cells, latest: asked.extend(cells))
    monkeypatch.setattr(sys, "argv", ["study.py", str(tmp_path)])
    made = tmp_path / "chosen.json"
    made.write_text((ROOT / "experiments/embedded-ranking/chosen.json").read_text())
    with pytest.raises(SystemExit, match="the same command goes on"):
        ranking.main()
    assert {cell.folder.name for cell in asked} == {"test", "long", "guided", "calm"}
    assert [cell.overrides for cell in asked if cell.name == "SFT"][0][-2:] == ranking.choice(made)["SFT"]
    made.write_text(made.read_text().replace("0.0003", "0.0004"))
    with pytest.raises(UserError, match=r"chosen\.json: random is .*0\.0004.*Expected one of"):
        ranking.main()


def test_kept_figures_make_the_tables_that_the_runs_make(tmp_path, capsys):
    cells = [Cell(tmp_path / "here", name, (0, 1, 2), gain) for name, gain in (("drift", 0.1), ("spin", 0.3))]
    ranking.perform(cells, time.monotonic() + 60)
    file, there = tmp_path / "runs.jsonl", tmp_path / "there"
    assert kept.write(tmp_path / "here", file) == 6 and kept.read(there, file) == 6 and kept.read(there, file) == 0
    tables = []
    for folder in (tmp_path / "here", there):
        capsys.readouterr()
        ranking.show_tests(folder, {"tune": [Cell(folder, cell.name, cell.seeds) for cell in cells]})
        tables.append(capsys.readouterr().out.partition("comparison")[2])
    assert tables[0] == tables[1] and "drift - spin" in tables[0]
    with pytest.raises(UserError, match="holds no finished run"):
        kept.write(tmp_path / "nowhere", file)
