"""Learn from user dissatisfaction: the command line, `drift` or `python -m drift`.

`run`, `evaluate`, `mine` and `describe` take the same settings with the same names: `mine=rules`, `intake.languages=[en]`,
`model=qwen2.5-7b-instruct`. `drift run --help` lists them all, `drift mine --help` those that `mine` uses.
"""

import argparse
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from drift import quiet, stop
from drift.compose import CONF
from drift.console import visible
from drift.errors import UserError

SETTINGS = "settings, for example intake.max_records=4000 (NAME=VALUE, as in `drift run`); the defaults are:\n"


def main() -> None:
    """The console script `drift`."""
    stop.install()
    if sys.argv[1:2] == ["run"]:
        from drift import run

        run.main(sys.argv[2:])
        return
    try:
        dispatch(sys.argv[1:])
    except UserError as error:
        sys.exit(visible(f"\n{error}"))


def dispatch(words: Sequence[str]) -> None:
    """All commands except `run`, whose arguments Hydra parses."""
    parser = argparse.ArgumentParser(prog="drift", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("run", add_help=False, help="train and evaluate: a run, or with -m a sweep")
    parsers = {"evaluate": evaluate_parser(commands), "mine": mine_parser(commands), "describe": describe_parser(commands)}
    report = commands.add_parser("report", help="rebuild the report of a run or a study, finished or not")
    report.add_argument("folder", type=Path, help="the folder of a run, or of a sweep")
    workspace = commands.add_parser("workspace", help="create a W&B workspace that compares the methods of a project")
    workspace.add_argument("folder", type=Path, help="the folder of a run, or of a sweep, whose metrics are drawn")
    workspace.add_argument("--entity", required=True, help="user or team")
    workspace.add_argument("--project", default="drift")
    workspace.add_argument("--spec", type=Path, help="write the specification to this file instead, and send nothing")
    arguments, overrides = parser.parse_known_args(words)
    quiet.libraries(None)
    subparser = parsers.get(arguments.command)
    for wrong in (item for item in overrides if subparser is None or "=" not in item or item.startswith("-")):
        (subparser or parser).error(f"{wrong} is neither an option nor a setting of the form name=value (--help lists them)")
    from drift.compose import compose
    from drift.config import build
    from drift.overrides import literal, override, quote_paths

    if arguments.command == "report":
        from drift.report import html

        print(f"Report: {html.report_of(arguments.folder)}")
    elif arguments.command == "workspace":
        from drift.logger import workspace as page

        page.workspace(arguments.folder, arguments.entity, arguments.project, arguments.spec)
    elif arguments.command == "evaluate":
        from drift import evaluate as benchmarks

        settings = [item for item in arguments.targets if "=" in item and not Path(item).exists()]
        targets = [item for item in arguments.targets if item not in settings]
        benchmarks.evaluate(targets, arguments.on.split(","), arguments.policies, arguments.out, [*settings, *overrides])
    elif arguments.command == "mine":
        from drift.intake import mined

        quote_paths([arguments.logs, str(arguments.out)])  # refuses a name that is not UTF-8
        run = build(compose([f"data={arguments.source}", override("data.path", literal(arguments.logs)), *overrides]))
        mined.mine(run, arguments.out, arguments.overwrite)
    else:
        from drift.report import describe as page

        quote_paths([str(arguments.records), str(arguments.out)])
        run = build(compose(["data=records", override("data.path", literal(str(arguments.records))), *overrides]))
        page.describe(run, overrides, arguments.records, arguments.out or arguments.records.with_suffix(".html"))


def evaluate_parser(commands: argparse._SubParsersAction) -> argparse.ArgumentParser:
    evaluate = commands.add_parser(
        "evaluate",
        usage="drift evaluate RUN_OR_MODEL ... --on BENCHMARK,... [--policies all|last] [--out FOLDER] [name=value ...]",
        help="ask the policies of runs, and any models, the prompts of a benchmark; one table with paired intervals",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=SETTINGS
        + "".join(block(f"{name}, all prompts unless num_prompts is given", text) for name, text in benchmark_settings())
        + "  sampler.precision=…, sampler.tokens_per_batch=…, store.dir=…  as in `drift run`",
    )
    evaluate.add_argument("targets", nargs="+", metavar="RUN_OR_MODEL", help="folder of a run, of a model or of a policy")
    evaluate.add_argument("--on", required=True, metavar="BENCHMARK,...", help="ifeval, ifbench, or both with a comma")
    evaluate.add_argument(
        "--policies",
        choices=("all", "last"),
        default="all",
        help="of a run: all (the default), or its start model and the last one",
    )
    evaluate.add_argument("--out", type=Path, help="the folder to write (default: benchmarks/ in the folder of the first run)")
    return evaluate


def benchmark_settings() -> list[tuple[str, str]]:
    return [(f"evaluation.{name}.…", (CONF / f"evaluation/{name}.yaml").read_text("utf-8")) for name in ("ifeval", "ifbench")]


def mine_parser(commands: argparse._SubParsersAction) -> argparse.ArgumentParser:
    config, miners = (CONF / "config.yaml").read_text(encoding="utf-8"), ("classifier", "cascade")
    mine = commands.add_parser(
        "mine",
        usage="drift mine LOGS --out FILE [--source KIND] [--overwrite] [name=value ...]",
        help="find the replies in chat logs that users liked or disliked, and write them as records",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=SETTINGS
        + choices("mine")
        + block("intake.…", textwrap.dedent(config.split("\nintake:")[1].partition("\n")[2].split("\n\n")[0]))
        + "".join(block(f"mine.… (with mine={name})", (CONF / f"mine/{name}.yaml").read_text("utf-8")) for name in miners),
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
        epilog=SETTINGS
        + choices("model")
        + "  model.path=…  with model=pretrained\n  train.max_tokens=…  prompt and reply at most\n"
        "  sampler.max_new_tokens=…  of a fresh reply",
    )
    describe.add_argument("records", type=Path)
    describe.add_argument("--out", type=Path, help="the page to write (default: beside the records)")
    return describe


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


if __name__ == "__main__":
    main()
