"""Learn from user dissatisfaction: the command line, `drift` or `python -m drift`.

All commands take the same settings with the same names: `mine=rules`, `intake.languages=[en]`, `model=qwen2.5-7b-instruct`.
`drift run --help` lists them all, `drift mine --help` those that `mine` uses.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from drift import quiet, stop
from drift.arguments import commands
from drift.console import visible
from drift.errors import UserError, unwritable


def main() -> None:
    """The console script `drift`."""
    stop.install()
    if sys.argv[1:2] == ["run"]:
        from drift import run

        run.main(sys.argv[2:])
        return
    try:
        dispatch(sys.argv[1:])
        sys.stdout.flush()
    except UserError as error:
        sys.exit(visible(f"\n{error}"))
    except BrokenPipeError:  # of `drift store | head`, for example
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing more is printed, at the end of Python either
        sys.exit(141)
    except OSError as error:
        if (told := unwritable(error)) is None:
            raise
        sys.exit(visible(f"\n{told} Choose another place with --out, or fix that."))


def dispatch(words: Sequence[str]) -> None:
    """All commands except `run`, whose arguments Hydra parses."""
    parser, parsers = commands(__doc__)
    arguments, overrides = parser.parse_known_args(words)
    quiet.libraries(None, sys.stderr)
    subparser = parsers.get(arguments.command)
    for wrong in (item for item in overrides if subparser is None or "=" not in item or item.startswith("-")):
        (subparser or parser).error(f"{wrong} is neither an option nor a setting of the form name=value (--help lists them)")
    COMMANDS[arguments.command](arguments, overrides)


def _report(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    from drift.logger import study
    from drift.report import html

    print(f"Report: {html.report_of(arguments.folder)}")
    if overrides:
        study.on_request(arguments.folder, overrides)


def _store(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    from drift.store import command

    what = {"older_than": arguments.older_than, "unused": arguments.unused, "delete": arguments.delete}
    command.store(arguments.folder, arguments.runs, **what)


def _calibrate(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    from drift.plan import calibrate

    calibrate.calibrate()


def _workspace(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    from drift.logger import workspace

    workspace.workspace(arguments.folder, arguments.entity, arguments.project, arguments.spec)


def _evaluate(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    from drift import evaluate

    targets, settings = _targets_and_settings(arguments.targets)
    evaluate.evaluate(targets, arguments.on.split(","), arguments.policies, arguments.out, [*settings, *overrides])


def _explore(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    from drift.exploration.command import explore

    targets, settings = _targets_and_settings(arguments.targets)
    explore(targets, arguments.out, [*settings, *overrides])


def _targets_and_settings(given: Sequence[str]) -> tuple[list[str], list[str]]:
    settings = [item for item in given if "=" in item and not Path(item).exists()]
    return [item for item in given if item not in settings], settings


def _refuse(overrides: Sequence[str], **instead: str) -> None:
    """Refuses settings whose values the command has from elsewhere."""
    for item in overrides:
        key = item.partition("=")[0].lstrip("+")
        if key.replace(".", "_") in instead:
            raise UserError(f"{item}: this command takes it from {instead[key.replace('.', '_')]}. Leave one of the two out.")


def _mine(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    from drift.compose import compose
    from drift.config import build
    from drift.intake import mined
    from drift.overrides import literal, override, quote_paths

    _refuse(overrides, data="--source", data_path=f"LOGS ({arguments.logs})")
    quote_paths([arguments.logs, str(arguments.out)])  # refuses a name that is not UTF-8
    run = build(compose([f"data={arguments.source}", override("data.path", literal(arguments.logs)), *overrides]))
    mined.mine(run, arguments.out, arguments.overwrite)


def _signal(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    from drift.signal.command import signal

    counts = {"num_prompts": arguments.prompts, "num_replies": arguments.replies, "num_splits": arguments.splits}
    signal(overrides, arguments.out, **counts)


def _agree(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    from drift.agree import agree

    agree(arguments.a, arguments.b, arguments.records, arguments.max_records, arguments.out, overrides)


def _describe(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    from drift.compose import compose
    from drift.config import build
    from drift.overrides import literal, override, quote_paths
    from drift.report import describe

    records = arguments.records
    _refuse(overrides, data="RECORDS", data_path=f"RECORDS ({records})")
    quote_paths([str(records), str(arguments.out)])
    run = build(compose(["data=records", override("data.path", literal(str(records))), *overrides]))
    page = arguments.out or (records if records.suffix else records.resolve()).with_suffix(".html")  # "." has no name
    describe.describe(run, overrides, records, page)


COMMANDS = {
    "evaluate": _evaluate,
    "mine": _mine,
    "describe": _describe,
    "signal": _signal,
    "explore": _explore,
    "agree": _agree,
    "report": _report,
    "calibrate": _calibrate,
    "workspace": _workspace,
    "store": _store,
}


if __name__ == "__main__":
    main()
