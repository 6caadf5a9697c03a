"""The house rules that a test can hold: mirrors, blindness to methods, no name twice, every config composes."""

import dataclasses
import importlib
import re
from pathlib import Path

import pytest
from conftest import ROOT, compose
from omegaconf import OmegaConf

CONF = ROOT / "conf"
OPTIONS = sorted(file for file in CONF.glob("*/*.yaml") if file.parent.name not in ("experiment",))


@pytest.mark.parametrize("file", OPTIONS, ids=lambda file: f"{file.parent.name}={file.stem}")
def test_every_option_composes_and_its_target_lies_in_the_mirrored_package(file):
    group = file.parent.name
    config = compose(f"{group}={file.stem}")
    part = config.evaluation[file.stem] if group == "evaluation" else config[group]
    target = part["_target_"]
    module, _, name = target.rpartition(".")
    assert hasattr(importlib.import_module(module), name)
    assert module.startswith(f"drift.{group}."), target
    if group in ("method", "data", "sampler", "judge", "evaluation", "logger"):
        assert module == f"drift.{group}.{file.stem}"
    for target in targets(part):
        assert_no_default(target)


@pytest.mark.parametrize("file", sorted(CONF.glob("experiment/*.yaml")), ids=lambda file: file.stem)
def test_every_experiment_composes_and_has_its_study_folder(file):
    assert compose(f"experiment={file.stem}").seed is not None
    assert (ROOT / "experiments" / file.stem / "README.md").is_file()


def test_only_methods_and_their_configs_know_a_methods_name():
    names = [file.stem for file in (CONF / "method").glob("*.yaml")]
    blind = [ROOT / "drift/loop.py", *(ROOT / "drift/store").glob("*.py"), ROOT / "drift/job.py", ROOT / "run.py"]
    for room in ("train", "evaluation", "report", "sampler", "logger"):
        blind += sorted((ROOT / "drift" / room).glob("*.py"))
    for file in blind:
        for name in names:
            assert not re.search(rf"[\"']{name}[\"']|method\.{name}\b", file.read_text()), (file, name)


def test_nothing_in_the_house_trusts_remote_code_or_unpickles():
    for file in (ROOT / "drift").glob("**/*.py"):
        text = file.read_text()
        trusted = re.findall(r"trust_remote_code\W+(\w+)", text)
        assert set(trusted) <= {"False"} and len(trusted) == text.count("trust_remote_code"), (file, trusted)
        for call in re.findall(r"Auto\w+\.from_pretrained\(([^)]*)", text):  # each says no by itself: a library would ask
            assert "trust_remote_code=False" in call or "**how" in call or call in ("DIR", ""), (file, call)
        assert "pickle" not in text.replace("pickled weights are not read", "")
        assert "torch.load" not in text


def test_top_level_holds_what_the_design_says():
    import subprocess

    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    top = {Path(name).parts[0] for name in tracked}
    small = {"LICENSE", "constraints.txt", ".gitignore", ".pre-commit-config.yaml", ".ci"}
    assert top - small == {"conf", "docs", "drift", "experiments", "outputs", "tests", "pyproject.toml", "README.md", "run.py"}


def test_every_value_stands_once():
    """A number of the composed config that stands in code as a default would be a second source. (Of the options that are not
    composed by default: in the test of every option.)"""
    for target in targets(compose()):
        assert_no_default(target)


def targets(node):
    """Every `_target_` of a config."""
    if OmegaConf.is_dict(node):
        if "_target_" in node:
            yield node["_target_"]
        for key in node:
            if not OmegaConf.is_missing(node, key):
                yield from targets(node[key])


def assert_no_default(target):
    module, _, name = target.rpartition(".")
    for field in dataclasses.fields(getattr(importlib.import_module(module), name)):
        default = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        assert not (field.init and default), f"{target}.{field.name} has a default in code"
