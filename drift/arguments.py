"""What the commands of `drift` take: options, settings, and the text of --help. `run` has Hydra's."""

import argparse
import textwrap
from pathlib import Path

from drift.compose import CONF
from drift.evaluation import BENCHMARKS

SETTINGS = "settings, for example {} (NAME=VALUE, as in `drift run`); the defaults are:\n"


def commands(description: str | None) -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """The parser of all commands, and those of the commands that take settings, by name."""
    parser = argparse.ArgumentParser(prog="drift", description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = parser.add_subparsers(dest="command", required=True)
    known.add_parser("run", add_help=False, help="train and evaluate: a run, or with -m a sweep")
    parsers = {
        "evaluate": evaluate_parser(known),
        "mine": mine_parser(known),
        "describe": describe_parser(known),
        "signal": signal_parser(known),
        "explore": explore_parser(known),
        "agree": agree_parser(known),
    }
    report = known.add_parser("report", help="rebuild the report of a run or a study, finished or not")
    report.add_argument("folder", type=Path, help="the folder of a run, or of a sweep")
    known.add_parser("calibrate", help="measure how fast this machine is, in about two minutes: `drift run plan=true` uses it")
    workspace = known.add_parser("workspace", help="create a W&B workspace that compares the methods of a project")
    workspace.add_argument("folder", type=Path, help="the folder of a run, or of a sweep, whose metrics are drawn")
    workspace.add_argument("--entity", required=True, help="user or team")
    workspace.add_argument("--project", default="drift")
    workspace.add_argument("--spec", type=Path, help="write the specification to this file instead, and send nothing")
    parsers["report"] = with_settings_of_a_logger(report)
    store_parser(known)
    return parser, parsers


def with_settings_of_a_logger(report: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """`drift report`, with the help on the settings that log its tables."""
    report.usage = "drift report FOLDER [logger=wandb] [logger.name=value ...]"
    report.formatter_class = argparse.RawDescriptionHelpFormatter
    report.epilog = (
        "settings, to log the report and its tables as a run of W&B too (nothing is sent unless mode is online):\n  logger=wandb\n"
        + block("logger.…", (CONF / "logger/wandb.yaml").read_text("utf-8"))
    )
    return report


def evaluate_parser(commands: argparse._SubParsersAction) -> argparse.ArgumentParser:
    evaluate = commands.add_parser(
        "evaluate",
        usage="drift evaluate RUN_OR_MODEL ... --on BENCHMARK,... [--policies all|last] [--out FOLDER] [name=value ...]",
        help="ask the policies of runs, and any models, the prompts of a benchmark; one table with paired intervals",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=SETTINGS.format("evaluation.ifeval.group_size=64")
        + "".join(block(f"{name}, all prompts unless num_prompts is given", text) for name, text in benchmark_settings())
        + block("evaluation.BENCHMARK.endpoint.…, of those that need a judge", (CONF / "endpoint.yaml").read_text("utf-8"))
        + "  sampler.precision=…, sampler.tokens_per_batch=…, store.dir=…  as in `drift run`",
    )
    evaluate.add_argument("targets", nargs="+", metavar="RUN_OR_MODEL", help="folder of a run, a sweep, a model or a policy")
    evaluate.add_argument("--on", required=True, metavar="BENCHMARK,...", help=f"{', '.join(BENCHMARKS)}; several with commas")
    evaluate.add_argument(
        "--policies",
        choices=("all", "last"),
        default="all",
        help="of a run: all (the default), or its start model and the last one",
    )
    evaluate.add_argument("--out", type=Path, help="the folder to write (default: benchmarks/ in the first run or sweep)")
    return evaluate


def benchmark_settings() -> list[tuple[str, str]]:
    return [(f"evaluation.{name}.…", (CONF / f"evaluation/{name}.yaml").read_text("utf-8")) for name in BENCHMARKS]


def mine_parser(commands: argparse._SubParsersAction) -> argparse.ArgumentParser:
    config, miners = (CONF / "config.yaml").read_text(encoding="utf-8"), ("classifier", "cascade")
    log = textwrap.dedent((CONF / "data/messages.yaml").read_text(encoding="utf-8").split("\n  path: ???\n")[1])
    mine = commands.add_parser(
        "mine",
        usage="drift mine LOGS --out FILE [--source KIND] [--overwrite] [name=value ...]",
        help="find the replies in chat logs that users liked or disliked, and write them as records",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=SETTINGS.format("intake.max_records=4000")
        + block("data.… (with --source messages; the other kinds have some of them)", log)
        + choices("mine")
        + block("intake.…", textwrap.dedent(config.split("\nintake:")[1].partition("\n")[2].split("\n\n")[0]))
        + "".join(block(f"mine.… (with mine={name})", (CONF / f"mine/{name}.yaml").read_text("utf-8")) for name in miners)
        + block("mine.endpoint.…", (CONF / "endpoint.yaml").read_text("utf-8")),
    )
    mine.add_argument("logs", help="file, directory, or hub data set in the cache")
    kinds = ", ".join(sorted(file.stem for file in (CONF / "data").glob("*.yaml") if file.stem not in ("deployment", "records")))
    mine.add_argument("--source", default="messages", metavar="KIND", help=f"what kind of log it is: {kinds} (default: messages)")
    mine.add_argument(
        "--out",
        required=True,
        type=Path,
        help="the file to write, NAME.jsonl; rows set aside go to NAME.quarantine.jsonl beside it",
    )
    mine.add_argument("--overwrite", action="store_true", help="replace these two files if they exist")
    return mine


def describe_parser(commands: argparse._SubParsersAction) -> argparse.ArgumentParser:
    describe = commands.add_parser(
        "describe",
        usage="drift describe RECORDS [--out PAGE] [name=value ...]",
        help="describe a file of records, as a table and as an HTML page",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=SETTINGS.format("intake.max_records=4000")
        + choices("model")
        + "  model.path=…  with model=pretrained\n  train.max_tokens=…  prompt and reply at most\n"
        "  sampler.max_new_tokens=…  of a fresh reply",
    )
    describe.add_argument("records", type=Path)
    describe.add_argument("--out", type=Path, help="the page to write (default: beside the records)")
    return describe


def signal_parser(commands: argparse._SubParsersAction) -> argparse.ArgumentParser:
    signal = commands.add_parser(
        "signal",
        usage="drift signal [--prompts N] [--replies N] [--splits N] [--out FOLDER] [name=value ...]",
        help="measure signal and noise in the gradients of every method's examples, without training",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="settings (NAME=VALUE), as in `drift run`; method and its settings may have several values:\n"
        "  method=drift,spin  method.num_samples=2,4  goes to the methods that take it (default: every method)\n"
        + choices("data")
        + choices("model")
        + "  examples_per_iteration=…  that each method makes\n  objective=[dpo]  weighs the replies of an example\n"
        "The columns of the table are explained below it, and in docs/signal.md.",
    )
    signal.add_argument("--prompts", type=int, default=60, metavar="N", help="prompts of the log to draw fresh replies to (60)")
    signal.add_argument("--replies", type=int, default=6, metavar="N", help="fresh replies to each of them (6)")
    signal.add_argument("--splits", type=int, default=20, metavar="N", help="random splits of these prompts into halves (20)")
    signal.add_argument("--out", type=Path, metavar="FOLDER", help="where signal.json goes (default: outputs/signal/TIME)")
    return signal


def explore_parser(commands: argparse._SubParsersAction) -> argparse.ArgumentParser:
    explore = commands.add_parser(
        "explore",
        usage="drift explore RUN_OR_STUDY ... [--out FOLDER] [name=value ...]",
        help="draw many replies of every method's policy, map them, and compare how much of the high-reward region each covers",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=SETTINGS.format("exploration.num_prompts=8")
        + block("exploration.…", (CONF / "exploration.yaml").read_text("utf-8"))
        + "  judge=NAME, judge.…  what gives the rewards (default: the known truth, else the runs' own judge)\n"
        "  sampler.…, store.…  instead of the runs' own",
    )
    explore.add_argument("targets", nargs="+", metavar="RUN_OR_STUDY", help="folder of a run or of a sweep")
    explore.add_argument("--out", type=Path, help="the folder to write (default: exploration/ in the first folder)")
    return explore


def agree_parser(commands: argparse._SubParsersAction) -> argparse.ArgumentParser:
    judges = ", ".join(sorted(file.stem for file in (CONF / "judge").glob("*.yaml")))
    agree = commands.add_parser(
        "agree",
        usage="drift agree A B RECORDS [--max-records N] [--out FILE] [a.name=value ...] [b.name=value ...]",
        help="how far two judges agree, or a judge and the users, on a file of records",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="settings of the judges; those of b=llm (endpoint.url and endpoint.model must be given):\n"
        + block("b.…", (CONF / "judge/llm.yaml").read_text("utf-8"))
        + block("b.endpoint.…", (CONF / "endpoint.yaml").read_text("utf-8")),
    )
    agree.add_argument("a", metavar="A", help=f"users, or a judge: {judges}")
    agree.add_argument("b", metavar="B", help="the same")
    agree.add_argument("records", metavar="RECORDS", type=Path, help="written by `drift mine`")
    agree.add_argument("--max-records", type=int, help="take this many, chosen at random (default: all)")
    agree.add_argument("--out", type=Path, help="the file to write (default: RECORDS.A-B.json)")
    return agree


def store_parser(commands: argparse._SubParsersAction) -> None:
    store = commands.add_parser(
        "store",
        usage="drift store [DIR] [--unused] [--older-than AGE] [--delete] [--runs FOLDER]",
        help="list what is in a store, by stage and by run, and remove what nothing refers to",
        description="Lists what is in a store, by stage and by run, and removes what nothing refers to: no run folder, no other "
        "stage, no process that may be alive. What a run folder refers to stays: delete the folder first. Exit code: 0; 1 if the "
        "folder is not a store, something could not be removed, or an option can't be used so; 2 for an unknown option.",
    )
    store.add_argument(
        "folder", nargs="?", type=Path, default=Path("outputs/store"), metavar="DIR", help="(default: outputs/store)"
    )
    store.add_argument("--unused", action="store_true", help="list everything that nothing refers to")
    store.add_argument("--older-than", metavar="AGE", help="list what nothing refers to and is older than 36h, 14d or 8w")
    store.add_argument("--delete", action="store_true", help="remove what --unused or --older-than lists (without it: a dry run)")
    store.add_argument(
        "--runs", type=Path, action="append", default=[], metavar="FOLDER", help="look for run folders here too (may be repeated)"
    )


def choices(group: str) -> str:
    """The options of a config group, the default first."""
    chosen = (CONF / "config.yaml").read_text(encoding="utf-8").split(f"  - {group}: ")[1].split("\n")[0].split(" ")[0]
    others = sorted({file.stem for file in (CONF / group).glob("*.yaml")} - {chosen})
    return f"  {group}={chosen} (or {', '.join(others)})\n"


def block(name: str, text: str) -> str:
    """The settings of a part as they are in its yaml, with comments."""
    kept = [
        line for line in text.splitlines() if ":" in line and line[0] != "#" and "_target_" not in line and "defaults" not in line
    ]
    return f"  {name}\n{textwrap.indent(chr(10).join(kept), '    ')}\n"
