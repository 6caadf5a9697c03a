"""The house rules that a test can hold: mirrors, blindness to methods, no name twice, every config composes."""

import ast
import dataclasses
import importlib
import re
from pathlib import Path

import pytest
from conftest import ROOT, compose
from omegaconf import OmegaConf

from drift import chosen

CONF = ROOT / "conf"
OPTIONS = sorted(file for file in CONF.glob("*/*.yaml") if file.parent.name not in ("experiment",))
SHARED = {  # the module of evaluations that differ by the benchmark alone
    "ifeval": "instructions", "ifbench": "instructions",
    **dict.fromkeys(("mtbench", "alpacaeval", "arena_hard", "wildbench", "wildbench_reward"), "judged"),
}  # fmt: skip
# Experiments without a folder of their own.
STUDIES = {"paper-0.5b": "paper", "paper-7b": "paper", "paper-14b": "paper"}
STUDIES |= {"paper-7b-lora-1gpu": "paper", "paper-14b-qlora-1gpu": "paper", "fixed-log": "regimes"}


@pytest.mark.parametrize("file", OPTIONS, ids=lambda file: f"{file.parent.name}={file.stem}")
def test_every_option_composes_and_its_target_lies_in_the_mirrored_package(file):
    group = file.parent.name
    config = compose(*chosen.bringers(group, CONF)[:1], f"{group}={file.stem}")
    part = config[group] if group in config else config.method[group]
    part = part if "_target_" in part else part[file.stem]  # of a group whose options are chosen as a list
    target = part["_target_"]
    module, _, name = target.rpartition(".")
    assert hasattr(importlib.import_module(module), name)
    assert module.startswith(f"drift.{group}."), target
    if group in ("method", "data", "sampler", "judge", "objective", "evaluation", "logger"):
        assert module == f"drift.{group}.{SHARED.get(file.stem, file.stem)}"
    for found in targets(part):
        assert_no_default(found)


@pytest.mark.parametrize("file", sorted(CONF.glob("experiment/*.yaml")), ids=lambda file: file.stem)
def test_every_experiment_composes_and_has_its_study_folder(file):
    assert compose(f"experiment={file.stem}").seed is not None
    page = ROOT / "experiments" / STUDIES.get(file.stem, file.stem) / "README.md"
    assert f"experiment={file.stem}" in page.read_text()


def test_a_model_option_chooses_a_model_and_nothing_else():
    rest = {key: value for key, value in compose().items() if key != "model"}
    for file in CONF.glob("model/*.yaml"):
        assert "@package" not in file.read_text() and "defaults" not in OmegaConf.load(file)
        assert {key: value for key, value in compose(f"model={file.stem}").items() if key != "model"} == rest


def test_no_two_options_of_train_set_the_same_value():
    """What they share stands in conf/train.yaml, once."""
    options = {file.stem: OmegaConf.load(file) for file in CONF.glob("train/*.yaml")}
    base = OmegaConf.load(CONF / "train.yaml")
    assert [str(options[name].defaults[0]) for name in ("lora", "full", "qlora")] == ["/train@_here_", "/train@_here_", "lora"]
    for name, option in options.items():
        assert not [key for key in option if key in base], name
    shared = [key for key in options["lora"] if key != "defaults" and options["lora"][key] == options["full"].get(key)]
    assert shared == []


@pytest.mark.parametrize("name", [
    "config", "guidance", "endpoint", "judge/llm", "train", "train/lora", "train/full", "train/qlora", "sampler/transformers",
    "sampler/vllm", "sampler/openai",
])  # fmt: skip
def test_every_key_is_explained_where_it_is_set(name):
    """Those of `hydra` are Hydra's own."""
    text = (CONF / f"{name}.yaml").read_text().partition("\nhydra:")[0]
    lines = [line for line in text.splitlines() if re.match(r" *(- )?\w+: *\S", line)]
    bare = [line for line in lines if "#" not in line and not re.match(r" *(_target_:|- override hydra)", line)]
    assert lines and bare == []


def test_only_methods_and_their_configs_know_a_methods_name():
    names = [file.stem for file in (CONF / "method").glob("*.yaml")]
    blind = [ROOT / "drift/loop.py", *(ROOT / "drift/store").glob("*.py"), ROOT / "drift/job.py", ROOT / "drift/run.py"]
    for room in ("train", "evaluation", "report", "sampler", "logger", "signal"):
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
            assert "trust_remote_code=False" in call or "**options" in call or call in ("DIR", ""), (file, call)
        assert "pickle" not in text.replace("pickled weights are not read", "")
        assert "torch.load" not in text


def test_top_level_holds_what_the_design_says():
    import subprocess

    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    top = {Path(name).parts[0] for name in tracked}
    pages = {"README.md", "DESIGN.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "CITATION.cff", "LICENSE"}
    small = {"pyproject.toml", "constraints.txt", "run.py", ".gitignore", ".pre-commit-config.yaml", ".ci", ".github"}
    assert top == {"conf", "docs", "drift", "experiments", "outputs", "tests"} | pages | small


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


MODULES = {".".join(file.relative_to(ROOT).with_suffix("").parts): file for file in (ROOT / "drift").glob("**/*.py")}


def imported(file):
    """The modules of the package that a file imports anywhere in it; a package stands for its `__init__`."""
    for node in ast.walk(ast.parse(file.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [name for alias in node.names for name in (f"{node.module}.{alias.name}", node.module)]
            names = [name for name in names if name in MODULES][:1] or names[-1:]
        yield from (name if name in MODULES else f"{name}.__init__" for name in names if name.startswith("drift"))


def test_no_imports_go_in_a_circle():
    arrows = {name: {other for other in imported(file) if other in MODULES} for name, file in MODULES.items()}
    done = set()
    while ready := {name for name, others in arrows.items() if name not in done and others <= done}:
        done |= ready
    assert set(arrows) - done == set()


@pytest.mark.parametrize("limit", [250])
def test_no_file_is_longer_than_a_reader_keeps_in_mind(limit):
    lengths = {str(file.relative_to(ROOT)): len(file.read_text().splitlines()) for file in MODULES.values()}
    assert {name: length for name, length in lengths.items() if length > limit} == {}


def test_no_function_is_longer_than_fifty_lines():
    long = {}
    for name, file in MODULES.items():
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno - node.lineno >= 50:
                long[f"{name}.{node.name}"] = node.end_lineno - node.lineno + 1
    assert long == {}
