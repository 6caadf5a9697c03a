"""The wheel holds the whole program: built, installed elsewhere, the main job runs from it by the console script."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from importlib.metadata import packages_distributions

import pytest
from conftest import ROOT, SMALL

pytestmark = pytest.mark.slow

AT_RUN_TIME = (".py", ".yaml", ".j2", ".safetensors", ".txt", ".typed")


def done(*command, cwd):
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    ended = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=200)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return ended.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built in a copy, without what an earlier build may have left in the clone."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("drift", "conf"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / name)
    done(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-index", "--no-build-isolation", "-w", "dist", ".", cwd=folder)
    (file,) = (folder / "dist").glob("drift-*.whl")
    return file


def test_the_wheel_holds_every_file_that_the_program_reads(wheel):
    wanted = {str(file.relative_to(ROOT)) for file in (ROOT / "drift").glob("**/*") if file.suffix in AT_RUN_TIME}
    wanted |= {f"drift/{file.relative_to(ROOT)}" for file in (ROOT / "conf").glob("**/*.yaml")}
    missing = wanted - set(zipfile.ZipFile(wheel).namelist())
    assert not missing, f"pyproject.toml, tool.setuptools: packages or package-data lack {sorted(missing)}"


def test_the_main_job_runs_from_the_wheel_outside_the_clone(wheel, cache, tmp_path):
    """In a fresh environment that sees the packages of this one, but not an editable clone: a path in a .pth file is one more
    place to import from, whose own .pth files are not read."""
    done(sys.executable, "-m", "venv", "--without-pip", "fresh", cwd=tmp_path)
    python, work = tmp_path / "fresh/bin/python", tmp_path / "work"
    work.mkdir()
    done(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=tmp_path)
    (packages,) = (tmp_path / "fresh/lib").glob("python3*/site-packages")
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    assert done(python, "-c", "import drift; print(drift.__file__)", cwd=work).strip() == str(packages / "drift/__init__.py")
    script = tmp_path / "fresh/bin/drift"
    assert "{run,evaluate,mine,describe,signal,explore,agree,report,calibrate,workspace,store}" in done(script, "--help", cwd=work)
    said = done(script, "run", *SMALL, f"model.cache_dir={cache}", "iterations=1", cwd=work)
    (report,) = (work / "outputs/runs").glob("*/report.html")
    assert said.strip().splitlines()[-1] == f"Report: {report.relative_to(work)}" or str(report) in said
    assert "<svg" in report.read_text()


def test_the_default_job_needs_no_package_of_an_extra(tmp_path, cache):
    """README's main command installs none of them. What only an extra brings is hidden from the run."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    def names(requirements):
        return {re.split(r"[<>=\[ ]", line)[0].lower() for line in requirements}

    extras = names(line for group in project["optional-dependencies"].values() for line in group)
    hidden = {
        module
        for module, distributions in packages_distributions().items()
        if {name.lower() for name in distributions} & (extras - names(project["dependencies"]) - {"drift", "setuptools"})
    }
    assert {"sklearn", "py3langid", "openai", "wandb", "trl"} <= hidden
    code = f"import sys; sys.modules.update(dict.fromkeys({sorted(hidden)}))\nfrom drift.run import main; main(sys.argv[1:])"
    folders = [f"model.cache_dir={cache}", f"store.dir={tmp_path}/store", f"hydra.run.dir={tmp_path}/run"]
    run = [sys.executable, "-c", code, *SMALL, *folders, "iterations=1"]
    ended = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert ended.returncode == 0, ended.stderr[-2000:]
