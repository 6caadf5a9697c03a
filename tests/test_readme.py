"""Every command of the README and of the studies is at least composed, and CI calls exactly the README's test command."""

import re
import shlex
import subprocess

import pytest
from conftest import ROOT, compose

PAGES = [ROOT / "README.md", *sorted(ROOT.glob("experiments/*/README.md"))]
FOUND = [match for page in PAGES for match in re.findall(r"(?m)\b(?:python run\.py|drift run)\b([^`#\n]*)", page.read_text())]
COMMANDS = sorted({match.strip() for match in FOUND})


@pytest.mark.parametrize("arguments", COMMANDS)
def test_every_command_composes(arguments):
    overrides = [word for word in shlex.split(arguments) if not word.startswith("-") and "=" in word and word != "job"]
    choices = [word.split("=", 1) for word in overrides]
    for option in choices[0][1].split(",") if choices else []:
        compose(
            *([f"{choices[0][0]}={option}"] if choices else []), *[f"{key}={value.split(',')[0]}" for key, value in choices[1:]]
        )


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
    for command in ("pip install -c constraints.txt -e '.[dev]'", "ruff check .", "ruff format --check .", "pyright"):
        assert command in workflows and command in page


def test_every_file_that_the_design_and_the_contributors_page_name_is_there():
    for page in ("DESIGN.md", "CONTRIBUTING.md"):
        named = re.findall(r"(?:`|\()((?:drift|tests|conf)/[\w./-]+|[A-Z]+\.md)(?:`|\)| holds)", (ROOT / page).read_text())
        wanted = {name for name in named if not re.search(r"\b(NAME|GROUP)\b", name)}
        assert len(wanted) > 3 and not {name for name in wanted if not (ROOT / name).exists()}, page


def test_the_main_command_is_one_line_that_ends_in_the_default_run():
    block = (ROOT / "README.md").read_text().split("<!-- main -->")[1].split("```")[1]
    lines = [line for line in block.splitlines() if line and line != "bash"]
    assert len(lines) == 1 and lines[0].endswith(".venv/bin/python run.py")
