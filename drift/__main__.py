"""Learn from user dissatisfaction: the command line, `drift` or `python -m drift`.

`run`, `mine`, `describe` and `signal` take the same settings with the same names: `mine=rules`, `intake.languages=[en]`,
`model=qwen2.5-7b-instruct`. `drift run --help` lists them all, `drift mine --help` those that `mine` uses.
"""

import argparse
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
    parsers = {"mine": mine_parser(commands), "describe": describe_parser(commands), "signal": signal_parser(commands)}
    parsers["agree"] = agree_parser(commands)
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
    elif arguments.command == "mine":
        from drift.intake import mined

        quote_paths([arguments.logs, str(arguments.out)])  # refuses a name that is not UTF-8
        run = build(compose([f"data={arguments.source}", override("data.path", literal(arguments.logs)), *overrides]))
        mined.mine(run, arguments.out, arguments.overwrite)
    elif arguments.command == "signal":
        from drift.signal.command import signal

        counts = {"num_prompts": arguments.prompts, "num_replies": arguments.replies, "num_splits": arguments.splits}
        signal(overrides, arguments.out, **counts)
    elif arguments.command == "agree":
        agree(arguments, overrides)
    else:
        from drift.report import describe as page

        quote_paths([str(arguments.records), str(arguments.out)])
        run = build(compose(["data=records", override("data.path", literal(str(arguments.records))), *overrides]))
        page.describe(run, overrides, arguments.records, arguments.out or arguments.records.with_suffix(".html"))


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
        epilog=SETTINGS
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


def agree(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Compares two sides."""
    from drift.compose import compose
    from drift.config import build_part
    from drift.overrides import literal, override, quote_paths
    from drift.report import agreement

    quote_paths([str(arguments.records), str(arguments.out or "")])  # refuses a name that is not UTF-8
    if arguments.a == arguments.b == "users":
        raise UserError("Expected at least one judge: drift agree users llm RECORDS.")
    judges = [(name, judge_of(side, name, overrides)) for side, name in (("a", arguments.a), ("b", arguments.b))]
    log = compose(["data=records", override("data.path", literal(str(arguments.records)))]).data
    out = arguments.out or arguments.records.with_suffix(f".{arguments.a}-{arguments.b}.json")
    agreement.agree(judges, build_part(log, "data"), arguments.max_records, out)


def judge_of(side: str, name: str, overrides: Sequence[str]) -> Any:
    """The judge that is one side of a comparison; None for the users. `overrides`: of both sides, "a.NAME=VALUE"."""
    from drift.compose import compose
    from drift.config import build_part

    for item in overrides:
        if not item.startswith(("a.", "b.")):
            raise UserError(f"{item}: expected a setting of one of the two judges, a.{item} or b.{item}.")
    own = [item.removeprefix(f"{side}.") for item in overrides if item.startswith(f"{side}.")]
    if name == "users":
        if own:
            raise UserError(f"{side}.{own[0]}: users have no settings.")
        return None
    try:
        config = compose(["method=iterdpo", f"judge={name}", *(f"method.judge.{item}" for item in own)])
        return build_part(config.method.judge, side)
    except UserError as error:
        raise UserError(str(error).replace("method.judge.", f"{side}.")) from error


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
