"""What the pages say is so: every command composes, every setting and every linked file is there, and CI calls exactly the README's
test command."""

import importlib
import json
import re
import shlex
import subprocess

import pytest
from conftest import ROOT, command, compose, feedback_file
from omegaconf import OmegaConf

from drift.arguments import commands
from drift.evaluation import BENCHMARKS

DOCS = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
PAGES = [*DOCS, *sorted(ROOT.glob("experiments/*/README.md"))]
TEXTS = [page.read_text().replace("\\\n", " ") for page in PAGES]  # a command may go on in the next line
FOUND = [match for text in TEXTS for match in re.findall(r"(?m)\b(?:python run\.py|drift run)\b([^`#\n]*)", text)]
GROUPS = "(train|sampler|alarms|intake|mine|evaluation|store|logger|method|filters)"
COMMANDS = sorted({match.strip() for match in FOUND if "hydra.searchpath" not in match})  # those name parts that are not there


def sides(value):
    """The values of a setting, of which a sweep has several: a,b but not [a,b]."""
    return [value] if value.startswith("[") else value.split(",")


@pytest.mark.parametrize("arguments", COMMANDS)
def test_every_command_composes(arguments):
    overrides = [word for word in shlex.split(arguments) if not word.startswith("-") and "=" in word and word != "job"]
    choices = [word.split("=", 1) for word in overrides]
    for option in sides(choices[0][1]) if choices else []:
        compose(*([f"{choices[0][0]}={option}"] if choices else []), *[f"{key}={sides(value)[0]}" for key, value in choices[1:]])


def test_every_comparison_of_judges_composes():
    found = {match for page in PAGES for match in re.findall(r"(?m)^drift agree ([^`#\n]*)", page.read_text())}
    for first, second, _, *settings in map(shlex.split, found):
        for side, name in (("a", first), ("b", second)):
            own = [f"method.judge.{item.removeprefix(f'{side}.')}" for item in settings if item.startswith(f"{side}.")]
            compose("method=iterdpo", *([] if name == "users" else [f"judge={name}"]), *own)
    assert found


OTHERS = "mine|describe|evaluate|signal|explore|report|store|workspace"
CALLS = {c.strip() for text in TEXTS for c in re.findall(rf"\b(?:drift|python -m drift) ((?:{OTHERS})\b[^`#\n)]*)", text)}
CALLS = {call for call in CALLS if " " in call and "…" not in call and "--help" not in call}  # a name alone only mentions it


@pytest.mark.parametrize("call", sorted(CALLS))
def test_every_other_command_parses_and_its_settings_compose(call):
    arguments, settings = commands(None)[0].parse_known_args(shlex.split(call))
    pairs = [item.split("=", 1) for item in settings]
    choices = {"mine": "data={0.source}", "evaluate": "evaluation=[{0.on}]", "explore": "method=iterdpo"}  # what the command adds
    choice = [choices[arguments.command].format(arguments)] if arguments.command in choices else []
    place = "method." if arguments.command == "explore" and any(key == "judge" for key, _ in pairs) else ""
    if pairs:
        compose(*choice, *[f"{place if key.startswith('judge.') else ''}{key}={sides(value)[0]}" for key, value in pairs])


def test_every_other_command_is_on_a_page():
    assert {call.split()[0] for call in CALLS} == set(OTHERS.split("|"))


def test_every_script_that_the_pages_call_is_there():
    called = {name for text in TEXTS for name in re.findall(r"\bpython3? ((?:\w[\w-]*/)+\w+\.py)", text)}
    assert len(called) > 10 and not {name for name in called if not (ROOT / name).is_file()}


def keys(node, path=""):
    """Every key of a composed config, dotted, groups included."""
    for name in node:
        yield f"{path}{name}"
        if hasattr(below := node._get_node(name), "items") and not below._is_none():
            yield from keys(below, f"{path}{name}.")


def test_every_setting_that_the_pages_name_is_one():
    known = {"hydra.run.dir", "hydra.searchpath", "model.path", "experiment", "judge"}
    choices = ["method=iterdpo", "evaluation=[deployment,heldout,ifeval,ifbench]", "logger=wandb", "mine=cascade", "train=qlora"]
    objectives = ",".join(sorted(file.stem for file in (ROOT / "conf/objective").glob("*.yaml")))
    known |= set(keys(compose(*choices, f"objective=[{objectives}]")))
    known |= set(keys(compose(f"evaluation=[{','.join(BENCHMARKS)}]")))
    known |= {f"exploration.{name}" for name in OmegaConf.load(ROOT / "conf/exploration.yaml")}
    others = ("data=messages", "data=preference", "method=sdpo", "method=random_logged", "judge=reward_model", "judge=llm")
    others += ("sampler=vllm", "sampler=openai")
    known |= {key for choice in others for key in keys(compose(choice))}
    known |= set(compose("sampler=openai").sampler.endpoint.fields)  # of a server's requests
    for page in DOCS:
        spans = re.findall(r"(?<!`)`([^`\n]+)`(?!`)", page.read_text())
        named = {key for span in spans for key in re.findall(r"(?:^|\s)\+?([a-z_]+(?:\.\w+)*)=(?!=)", span)}
        dotted = {
            s
            for s in spans
            if re.fullmatch(r"(train|sampler|alarms|intake|mine|evaluation|store|logger|method|filters)\.[\w.]+", s)
        }
        wrong = {
            key
            for key in named | dotted
            if key not in known and not key.endswith(("NAME", "KEY")) and ".endpoint.fields." not in key
        }
        assert not wrong, (page.name, wrong)


def test_every_link_between_the_pages_leads_to_a_file():
    for page in [*PAGES, ROOT / "DESIGN.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]:
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)\s]*)?\)", page.read_text()):
            assert target.startswith("https://") or (page.parent / target).exists(), (page, target)


def test_the_file_tree_of_the_readme_has_every_room_and_nothing_else():
    block = (ROOT / "README.md").read_text().split("\n## Where things are\n")[1].split("\n## ")[0]
    named = re.findall(r"(?m)^    (\S+) ", block)
    assert all((ROOT / name).exists() for name in named)
    rooms = {f"drift/{folder.parent.name}/" for folder in ROOT.glob("drift/*/__init__.py")}
    assert rooms == {name for name in named if re.fullmatch(r"drift/\w+/", name)}


def test_the_tables_of_parts_name_contracts_and_patterns_that_are_there():
    parts = importlib.import_module("drift.parts")
    for page in ("README.md", "docs/extend.md"):
        rows = re.findall(
            r"(?m)^\| [\w ]+ \| `(\w+)\W.*?`(drift/\w+/NAME\.py)` \| `(conf/\w+/NAME\.yaml)`", (ROOT / page).read_text()
        )
        assert len(rows) == 6, page
        for contract, file, yaml in rows:
            assert hasattr(parts, contract) and (ROOT / file).parent.is_dir() and (ROOT / yaml).parent.is_dir()
    for name in re.findall(r"`(drift/\w+/\w+\.py)` \|$", (ROOT / "docs/extend.md").read_text()):
        assert (ROOT / name).is_file(), name


@pytest.mark.slow
def test_the_example_of_a_method_runs(cache, tmp_path):
    """The code of docs/extend.md, in a folder of its own with its yaml."""
    code = (ROOT / "docs/extend.md").read_text().split("```python\n")[1].split("```")[0]
    (tmp_path / "mine.py").write_text(code)
    (tmp_path / "conf/method").mkdir(parents=True)
    (tmp_path / "conf/method/mine.yaml").write_text("_target_: mine.Mine\nrounds: 4\n")
    log = feedback_file(tmp_path / "log.jsonl")
    done = command(
        "method=mine", f"hydra.searchpath=[file://{tmp_path}/conf]", "model=tiny", f"model.cache_dir={cache}", "data=jsonl",
        f"data.path={log}", "iterations=1", "examples_per_iteration=6", "train.examples_per_step=2", "sampler.max_new_tokens=8",
        "evaluation.heldout.num_sampled_prompts=0", f"store.dir={tmp_path}/store", f"hydra.run.dir={tmp_path}/run",
        PYTHONPATH=str(tmp_path),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    examples = [json.loads(line) for line in (tmp_path / "run/iteration_1/examples.jsonl").read_text().splitlines()]
    assert len(examples) == 6
    assert all([(r["good"], r["fresh"]) for r in e["replies"]] == [(True, True), (False, False)] for e in examples)


def test_ci_runs_the_readmes_test_command():
    script = (ROOT / ".ci" / "run").read_text()
    found = subprocess.run(
        ["bash", "-c", script.replace('eval "$command"', 'echo "FOUND $command"').replace('cd "$(dirname "$0")/.."', f"cd {ROOT}")],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    command = found.split("FOUND ")[1].strip()
    assert (
        command.startswith("python3 -m venv .venv")
        and command.endswith("-m pytest")
        and command in (ROOT / "README.md").read_text()
    )


def test_github_and_the_contributors_page_have_the_commands_of_ci():
    workflows = "".join(file.read_text() for file in (ROOT / ".github/workflows").glob("*.yml"))
    page = (ROOT / "CONTRIBUTING.md").read_text()
    assert "bash .ci/run" in workflows
    for line in ("pip install -c constraints.txt -e '.[dev]'", "ruff check .", "ruff format --check .", "pyright"):
        assert line in workflows and line in page


def test_every_file_that_the_design_and_the_contributors_page_name_is_there():
    for page in ("DESIGN.md", "CONTRIBUTING.md"):
        named = re.findall(r"(?:`|\()((?:drift|tests|conf)/[\w./-]+|[A-Z]+\.md)(?:`|\)| holds)", (ROOT / page).read_text())
        wanted = {name for name in named if not re.search(r"\b(NAME|GROUP)\b", name)}
        assert len(wanted) > 3 and not {name for name in wanted if not (ROOT / name).exists()}, page


def test_the_main_command_is_one_line_that_ends_in_the_default_run():
    block = (ROOT / "README.md").read_text().split("<!-- main -->")[1].split("```")[1]
    lines = [line for line in block.splitlines() if line and line != "bash"]
    assert len(lines) == 1 and lines[0].endswith(".venv/bin/drift run")
    assert "python run.py -m method=drift,spin,iterdpo" in (ROOT / "README.md").read_text()
