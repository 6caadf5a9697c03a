"""W&B offline: what a sweep logged is read back from its files and is what the CSV files say; the workspace builds."""

import csv
import glob
import json
import os
import re
import struct
import subprocess
import sys
import time

import pytest
from conftest import ROOT, SMALL, command, feedback_file
from network_watch import Watch
from test_report import state, write

from drift.__main__ import dispatch
from drift.errors import UserError
from drift.logger import workspace
from drift.report import html
from drift.report.state import Alarm

pytestmark = pytest.mark.slow

BLOCK = 32768
ONLINE_BY_THE_SHELL = {
    "WANDB_MODE": "online", "WANDB_API_KEY": "0123456789" * 4, "WANDB_ERROR_REPORTING": "true", "HF_HUB_OFFLINE": "0",
}  # fmt: skip


def records(path):
    """The records of a .wandb file (a LevelDB log of protobuf messages; a torn tail ends it)."""
    from wandb.proto import wandb_internal_pb2

    data, at, whole = path.read_bytes(), 7, b""
    assert data[:4] == b":W&B"
    while at + 7 <= len(data):
        if BLOCK - at % BLOCK < 7:
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        part = data[at + 7 : at + 7 + length]
        if len(part) < length or kind == 0:
            return
        at += 7 + length
        whole = part if kind in (1, 2) else whole + part
        if kind in (1, 4):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            yield record


def load(path):
    """The run's name, group, job type, config, history rows, summary and exit code."""
    found = {"config": {}, "history": [], "summary": {}, "exit": None, "artifacts": {}}
    for record in records(path):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run = record.run
            found |= {"name": run.display_name, "group": run.run_group, "job": run.job_type, "tags": list(run.tags)}
            found["config"] |= {item.key: json.loads(item.value_json) for item in run.config.update}
        elif kind == "history":
            row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            found["history"].append(row)
        elif kind == "summary":
            found["summary"] |= {item.key or "/".join(item.nested_key): item.value_json for item in record.summary.update}
        elif kind == "exit":
            found["exit"] = record.exit.exit_code
        elif kind == "artifact" and record.artifact.type != "run_table":
            about = json.loads(record.artifact.metadata or "{}")
            files = {entry.path: entry.ref or entry.local_path for entry in record.artifact.manifest.contents}
            found["artifacts"][record.artifact.name] = about | {"files": files}
    return found


def numbers(path):
    with open(path, newline="") as file:
        rows = csv.DictReader(file)
        return [{name: float(value) for name, value in row.items() if value and name != "policy"} for row in rows]


@pytest.fixture(scope="module")
def sweep(cache, tmp_path_factory):
    folder = tmp_path_factory.mktemp("wandb")
    log = feedback_file(folder / "log.jsonl", dsat=12, sat=12)
    (folder / "watch").mkdir()
    with Watch(folder / "watch") as watch:
        done = sweep_of_six(cache, folder, log, under=watch.prefix, **watch.environment | ONLINE_BY_THE_SHELL)
    assert done.returncode == 0, done.stderr[-2000:]
    (folder / "said").write_text(done.stdout)
    (folder / "sent").write_text("\n".join(watch.attempts()))
    return folder / "study"


def sweep_of_six(cache, folder, log, **how):
    return command(
        "-m", "model=tiny", f"model.cache_dir={cache}", "data=jsonl", f"data.path={log}", "method=drift,spin", "seed=0,1,2",
        "iterations=1", "examples_per_iteration=4", "train.examples_per_step=2", "sampler.max_new_tokens=8",
        "evaluation.heldout.share=0.3", "evaluation.heldout.num_sampled_prompts=0",
        "logger=wandb", f"store.dir={folder}/store", f"hydra.sweep.dir={folder}/study", **how,
    )  # fmt: skip


def test_a_sweep_with_offline_wandb_sends_nothing_to_anywhere(sweep):
    """Neither its main job nor W&B's service, whatever the shell says."""
    assert (sweep.parent / "sent").read_text() == ""


def test_what_is_sent_past_any_of_the_three_nets_is_seen(tmp_path):
    by_proxy = "import urllib.request as r; r.urlopen('http://example.invalid/x')"
    by_hand = "import socket; socket.create_connection(('192.0.2.1', 9))"
    for code, seen in ((by_proxy, "proxy: GET http://example.invalid/x"), (by_hand, "192.0.2.1")):
        with Watch(tmp_path) as watch:
            done = subprocess.run([sys.executable, "-c", code], env=os.environ | watch.environment, capture_output=True)
        assert done.returncode == 1 and seen in watch.attempts()[0]


def test_one_command_sends_the_whole_sweep(sweep):
    (command,) = re.findall(r"W&B: offline; wandb sync (\S+) uploads the whole sweep", (sweep.parent / "said").read_text())
    assert len(glob.glob(command)) == 6


def test_names_say_what_sets_a_run_apart_and_summaries_what_it_gained(sweep):
    runs = [load(*member.glob("wandb/offline-run-*/*.wandb")) for member in sorted(sweep.glob("[0-9]-*"))]
    assert [run["name"] for run in runs] == [f"{method}, seed {seed}" for method in ("drift", "spin") for seed in (0, 1, 2)]
    rows = list(csv.DictReader((sweep / "results.csv").open()))
    gains = [float(row["against start"]) for row in rows if row["policy"] == "iteration 1"]
    assert [json.loads(run["summary"]["gain"]) for run in runs] == pytest.approx(gains)
    assert all("after iteration 1" in run["summary"]["verdict"] for run in runs)


def test_six_runs_of_a_sweep_are_six_runs_of_one_group(sweep):
    runs = {member.name: load(*member.glob("wandb/offline-run-*/*.wandb")) for member in sorted(sweep.glob("[0-9]-*"))}
    assert len(runs) == 6 and {run["group"] for run in runs.values()} == {sweep.name}
    assert [run["job"] for run in runs.values()] == ["drift"] * 3 + ["spin"] * 3
    assert [run["config"]["seed"] for run in runs.values()] == [0, 1, 2] * 2
    assert {run["exit"] for run in runs.values()} == {0} and all("tiny" in run["tags"] for run in runs.values())


def test_metrics_are_those_of_the_csv_files_and_samples_are_tables(sweep):
    for member in sweep.glob("[0-9]-*"):
        history = load(*member.glob("wandb/offline-run-*/*.wandb"))["history"]
        steps = [row for row in history if "train/loss" in row]
        for row, expected in zip(steps, numbers(member / "steps.csv"), strict=True):
            assert {name: row[f"train/{name}"] for name in expected if name not in ("step", "iteration")} == pytest.approx(
                {name: value for name, value in expected.items() if name not in ("step", "iteration")}
            )
        assert [row["step"] for row in steps] == list(range(1, len(steps) + 1))
        scores = [row for row in history if any(name.startswith("scores/") for name in row)]
        for row, expected in zip(scores, numbers(member / "scores.csv"), strict=True):
            assert row["iteration"] == expected.pop("iteration")
            assert {name: row[f"scores/{name}"] for name in expected} == pytest.approx(expected)
        assert tables(member)["examples"][0]["columns"] == ["iteration", "prompt", "good", "bad", "feedback"]


def test_alarms_are_there_and_examples_and_replies_are_tables_unless_switched_off(cache, tmp_path):
    for choice, kinds in (("true", {"examples": 1, "replies": 2}), ("false", {})):
        done = command(
            *SMALL, f"model.cache_dir={cache}", "iterations=1", "logger=wandb", f"logger.samples={choice}",
            "alarms.copied_share=-1", f"store.dir={tmp_path}/store", f"hydra.run.dir={tmp_path}/{choice}",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        assert {kind: len(found) for kind, found in tables(tmp_path / choice).items()} == kinds
        history = load(*(tmp_path / choice).glob("wandb/offline-run-*/*.wandb"))["history"]
        assert [row["iteration"] for row in history if "alarms/copied_share" in row] == [1]


def test_nobody_logged_in_is_said_before_anything_is_computed(cache, tmp_path):
    settings = [*SMALL, f"model.cache_dir={cache}", "logger=wandb", "logger.mode=online", f"store.dir={tmp_path}/store"]
    here = {"HOME": str(tmp_path), "WANDB_API_KEY": "", "WANDB_BASE_URL": "http://127.0.0.1:9"}
    done = command(*settings, f"hydra.run.dir={tmp_path}/run", **here)
    assert done.returncode == 1 and "wandb login" in done.stderr and "logger.mode=offline" in done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "store").exists()


def test_what_a_run_makes_are_artifacts_that_say_what_they_were_made_from(sweep):
    """log -> records -> examples -> policy -> scores; every one refers to a file of this machine, and none of them holds one."""
    members = sorted(sweep.glob("[0-9]-*"))
    made = [load(*member.glob("wandb/offline-run-*/*.wandb"))["artifacts"] for member in members]
    for member, artifacts in zip(members, made, strict=True):
        kinds = {name: name.partition("-")[0] for name in artifacts}
        assert sorted(kinds.values()) == ["examples", "log", "policy", "records", "scores", "scores"]
        of = {kinds[name]: name for name in reversed(artifacts)}  # the scores are the policy's
        chain = {kind: [kinds[name] for name in artifacts[of[kind]]["made from"]] for kind in of}
        assert chain | {"scores": None} == {
            "log": [], "records": ["log"], "examples": ["records"], "policy": ["examples"], "scores": None,
        }  # fmt: skip
        assert sorted(len(artifacts[name]["made from"]) for name in artifacts if kinds[name] == "scores") == [0, 1]
        assert all(file.startswith("file://") for one in artifacts.values() for file in one["files"].values())
        (policy,) = [one["paths"] for name, one in artifacts.items() if kinds[name] == "policy"]
        assert os.path.samefile(policy[0], member / "iteration_1/policy")
    assert len({name for artifacts in made for name in artifacts if name.startswith("log-")}) == 1, "they share the log"


def of_study(folder):
    """The run of a study's report, and its tables by name."""
    (file,) = folder.glob("wandb/offline-run-*/*.wandb")
    deadline = time.monotonic() + 60
    while not any(record.WhichOneof("record_type") == "exit" for record in records(file)) and time.monotonic() < deadline:
        time.sleep(0.05)  # W&B's service, which lives as long as this process, may write the file after `finish` has returned
    tables = {}
    for path in file.parent.glob("files/media/table/report/*.table.json"):
        content = json.loads(path.read_text())
        rows = [dict(zip(content["columns"], row, strict=True)) for row in content["data"]]
        tables[re.sub(r"_\d+_[0-9a-f]+\.table\.json$", "", path.name)] = rows
    return load(file), tables


def test_a_sweep_ends_with_one_run_of_type_report_that_compares_its_members(sweep):
    run, tables = of_study(sweep)
    assert (run["job"], run["group"], run["name"], run["exit"]) == ("report", sweep.name, "report", 0)
    (expected,) = csv.DictReader((sweep / "comparisons.csv").open())
    (found,) = tables["comparisons"]
    assert {name: str(found[name]) for name in ("one", "other", "at", "verdict")} == {
        name: expected[name] for name in ("one", "other", "at", "verdict")
    }
    for name in ("difference", "low", "high", "p"):
        assert found[name] == pytest.approx(float(expected[name]))
    rows = [row for row in csv.DictReader((sweep / "results.csv").open()) if row["policy"] == "iteration 1"]
    metrics = {row["metric"]: row for row in tables["scores"] if (row["run"], row["policy"]) == ("spin", "iteration 1")}
    headline = rows[0]["headline"]
    assert metrics[headline]["against start"] == pytest.approx(sum(float(row["against start"]) for row in rows[3:]) / 3)
    assert {name: row["value"] for name, row in metrics.items()} == pytest.approx(
        {name: sum(float(row[name]) for row in rows[3:]) / 3 for name in metrics}
    )
    assert {"drift", "spin"} <= set(tables["samples"][0]) and tables["samples"][0]["prompt"]
    (page,) = [one["files"]["report.html"] for name, one in run["artifacts"].items() if name.startswith("report-")]
    assert open(page).read() == (sweep / "report.html").read_text()
    assert any("report/page" in str(row) for row in run["history"])


def test_a_report_is_logged_on_request_without_samples_where_they_are_off(tmp_path, capsys):
    """Of any run: its own logger was another one. The page holds samples, so it stays here too."""
    run = state("one", 0, 0.1)
    run.alarms = [Alarm(iteration=1, during="sampling", name="copied_share", text="0.9 > 0.3")]
    write(tmp_path, run)
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks/benchmarks.csv").write_text("policy,benchmark,metric,value,p\nstart,ifeval,strict,0.25,\n")
    dispatch(["report", str(tmp_path), "logger=wandb", "logger.samples=false", "logger.project=p"])
    logged, tables = of_study(tmp_path)
    benchmark = {"folder": tmp_path.name, "policy": "start", "benchmark": "ifeval", "metric": "strict", "value": 0.25}
    assert set(tables) == {"scores", "alarms", "benchmarks"} and tables["benchmarks"] == [benchmark]
    assert tables["alarms"][0]["alarm"] == "copied_share"
    values = {(row["policy"], row["metric"]): row["value"] for row in tables["scores"]}
    assert values == pytest.approx({
        ("start", "utility"): 0.25, ("start", "words"): 5.0, ("iteration 1", "utility"): 0.35, ("iteration 1", "words"): 5.0,
    })  # fmt: skip
    assert logged["job"] == "report" and not [name for name in logged["artifacts"] if name.startswith("report")]
    assert f"wandb sync {tmp_path}/wandb/offline-run-*" in capsys.readouterr().out
    for wrong, message in (("logger=csv", "Expected logger=wandb"), ("seed=1", "takes the settings of a logger only")):
        with pytest.raises(UserError, match=message):
            dispatch(["report", str(tmp_path), wrong])


def tables(member):
    """Kind -> the tables of a run, as they lie on disk."""
    found = {}
    for file in sorted(member.glob("wandb/offline-run-*/files/media/table/**/*.table.json")):
        found.setdefault(file.relative_to(file.parents[1]).parts[0], []).append(json.loads(file.read_text()))
    return found


def test_the_workspace_is_specified_without_a_server(sweep, tmp_path):
    spec = tmp_path / "workspace.json"
    done = subprocess.run(
        [sys.executable, "-m", "drift", "workspace", str(sweep), "--entity", "team", "--project", "p", "--spec", str(spec)],
        cwd=ROOT, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    text = spec.read_text()
    assert json.loads(text) and "Methods side by side" in text
    assert all(f"report/{name}" in text for name in [*of_study(sweep)[1], "page", "benchmarks", "judges", "alarms"])
    for file, kind in (("scores.csv", "scores"), ("steps.csv", "train")):
        logged = set(numbers(next(sweep.glob("[0-9]-*")) / file)[0]) - {"iteration", "step"}
        assert logged and all(f'"{kind}/{name}"' in text for name in logged)


def test_a_metric_that_nobody_named_is_drawn_in_the_page_and_in_the_workspace(tmp_path):
    """Of an objective from elsewhere: its part of the loss at every step, its KL term at one."""
    write(tmp_path, state("one", 0, 0.1))
    (tmp_path / "steps.csv").write_text("iteration,step,loss,loss_ours,margin,our_kl\n1,1,0.7,0.3,0.0,\n1,2,0.6,0.2,0.1,4.5\n")
    text = html.run_report(tmp_path).read_text()
    titles = [text.index(f">{name}<") for name in ("loss", "loss_ours", "reward margin", "our_kl")]
    assert titles == sorted(titles)
    scores, training = workspace.metrics(tmp_path)
    assert (scores, training) == (["utility", "words"], ["loss", "loss_ours", "margin", "our_kl"])
    spec = workspace.build("team", "p", scores, training)._to_model().model_dump_json()
    assert all(f'"{name}"' in spec for name in ("scores/utility", "train/loss_ours", "train/our_kl"))
