"""A sweep as a whole: a folder of its own, and members that failed are said."""

import json
import re

import pytest
from conftest import ROOT
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf, read_write

from drift import sweep
from drift.compose import CONF
from drift.sweep import composed_of


@pytest.fixture
def begin(tmp_path):
    """Begins a sweep over two seeds in one and the same `hydra.sweep.dir`; returns the config that Hydra would go on with."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):

        def start(*task):
            wanted = f"hydra.sweep.dir='{tmp_path}/it''s one'".replace("''", "\\'")
            config = compose("config", overrides=["model=tiny", "hydra.mode=MULTIRUN", wanted], return_hydra_config=True)
            with read_write(config):
                config.hydra.overrides.task = ["model=tiny", "seed=0,1", *task]
                config.hydra.overrides.hydra = ["hydra.mode=MULTIRUN", wanted]
            sweep.Members().on_multirun_start(config, config_name="config")
            return config

        yield start
    sweep._folder.close()


def test_two_sweeps_in_one_second_get_folders_of_their_own(begin, tmp_path, capsys):
    folders = [begin().hydra.sweep.dir, begin().hydra.sweep.dir, begin("iterations=1").hydra.sweep.dir]
    assert folders == [f"{tmp_path}/it's one{end}" for end in ("", "-2", "-3")]
    assert f"Sweep of 2 members in {tmp_path}/it's one-2" in capsys.readouterr().out


def test_members_are_told_the_folder_and_a_sweep_again_takes_its_own_over(begin, tmp_path):
    begin()
    config = begin()
    member = compose("config", overrides=list(config.hydra.overrides.hydra), return_hydra_config=True)
    assert member.hydra.sweep.dir == config.hydra.sweep.dir == f"{tmp_path}/it's one-2"
    sweep._folder.close()  # both have ended
    (tmp_path / "it's one" / "multirun.yaml").write_text("of the first")
    assert begin("iterations=2").hydra.sweep.dir == f"{tmp_path}/it's one-3"
    assert begin().hydra.sweep.dir == f"{tmp_path}/it's one"
    assert not (tmp_path / "it's one" / "multirun.yaml").exists()


def test_a_judge_is_for_the_members_of_a_sweep_whose_method_asks_one(begin, tmp_path, capsys):
    """With a log it must be one that needs no truth; where no member asks one, it is refused as in a single run."""
    begin("method=spin,iterdpo", "judge=verifier", "method.judge.noise=0")
    assert "Sweep of 4 members" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="Unknown key judge. A judge goes with method=iterdpo"):
        begin("method=drift", "judge=verifier")
    with pytest.raises(SystemExit, match="judge.path=/no/where is neither a directory nor a hub id"):
        begin("method=drift,iterdpo", "judge=reward_model", "method.judge.path=/no/where")
    (tmp_path / "log.jsonl").write_text("{}\n")
    with pytest.raises(SystemExit, match="(?s)known truth.* judge=reward_model method.judge.path=.*the sweep was not started"):
        begin("method=drift,iterdpo", "data=jsonl", f"data.path={tmp_path}/log.jsonl")


def test_members_that_failed_end_the_sweep_with_their_names(tmp_path):
    for number, status in enumerate(("finished", "failed")):
        (tmp_path / str(number)).mkdir()
        title = {"method": "spin", "seed": str(number)}
        state = {"status": status, "title": title, "notes": {}, "error": "Broken: it is", "points": [], "stages": [], "data": {}}
        state |= {"alarms": [], "watched": [], "environment": {}, "begun": "2026-11-26T12:00:00", "seconds": 1.0}
        (tmp_path / str(number) / "run.json").write_text(json.dumps(state))
    config = OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}})
    with pytest.raises(SystemExit, match="1 of 2 members failed .*: method=spin, seed=1"):
        sweep.Members().on_multirun_end(config)
    assert (tmp_path / "report.html").is_file()  # that of the study, once


MEMBERS = [
    ["method=drift", "seed=0"],
    ["method=drift", "seed=1", "train.learning_rate=1e-3", "objective.dpo.beta=0.2"],
    ["method=spin", "data.deployed.system='a, \"b\"'", "method.rounds=2"],
    ["data.deployed.system=null", "method=spin", "logger=wandb", "logger.tags=[a,b]"],
    ["method=iterdpo", "objective=[dpo,nll]", "objective.nll.weight=0.2"],
    ["+model.template.other=false", "seed=${iterations}"],
    ["method=drift", "train=full", "train.epochs=2"],
]


def test_members_that_share_their_choices_are_composed_as_hydra_does_it():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
        bases: dict = {}
        for member in [*MEMBERS, *reversed(MEMBERS)]:
            try:
                expected = compose("config", overrides=member)
            except HydraException as error:
                with pytest.raises(HydraException, match=re.escape(str(error))):
                    composed_of("config", parser.parse_overrides(member), bases)
                continue
            assert OmegaConf.to_yaml(composed_of("config", parser.parse_overrides(member), bases)) == OmegaConf.to_yaml(expected)
        assert len(bases) == 6, "one each for the choices of the methods, the objective, the logger, the added key and train"


def test_a_wrong_value_of_a_later_member_is_explained_as_hydra_does_it():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
        with pytest.raises(HydraException, match="sed"):
            composed_of("config", parser.parse_overrides(["sed=1"]), {})
