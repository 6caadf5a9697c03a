"""Learn from user dissatisfaction: the command line, `drift` or `python -m drift`.

All commands take the same settings with the same names: `mine=rules`, `intake.languages=[en]`, `model=qwen2.5-7b-instruct`.
`drift run --help` lists them all, `drift mine --help` those that `mine` uses.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from drift import quiet, stop
from drift.arguments import commands
from drift.console import visible
from drift.errors import UserError


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
    parser, parsers = commands(__doc__)
    arguments, overrides = parser.parse_known_args(words)
    quiet.libraries(None)
    subparser = parsers.get(arguments.command)
    for wrong in (item for item in overrides if subparser is None or "=" not in item or item.startswith("-")):
        (subparser or parser).error(f"{wrong} is neither an option nor a setting of the form name=value (--help lists them)")
    perform(arguments, overrides)


def perform(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    """The parsed command."""
    from drift.compose import compose
    from drift.config import build
    from drift.overrides import literal, override, quote_paths

    if arguments.command == "report":
        from drift.logger import study
        from drift.report import html

        print(f"Report: {html.report_of(arguments.folder)}")
        if overrides:
            study.on_request(arguments.folder, overrides)
    elif arguments.command == "store":
        from drift.store import command

        what = {"older_than": arguments.older_than, "unused": arguments.unused, "delete": arguments.delete}
        command.store(arguments.folder, arguments.runs, **what)
    elif arguments.command == "calibrate":
        from drift.plan import calibrate

        calibrate.calibrate()
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
    elif arguments.command == "signal":
        from drift.signal.command import signal

        counts = {"num_prompts": arguments.prompts, "num_replies": arguments.replies, "num_splits": arguments.splits}
        signal(overrides, arguments.out, **counts)
    elif arguments.command == "explore":
        from drift.exploration.command import explore

        settings = [item for item in arguments.targets if "=" in item and not Path(item).exists()]
        targets = [item for item in arguments.targets if item not in settings]
        explore(targets, arguments.out, [*settings, *overrides])
    elif arguments.command == "agree":
        from drift.agree import agree

        agree(arguments.a, arguments.b, arguments.records, arguments.max_records, arguments.out, overrides)
    else:
        from drift.report import describe as page

        quote_paths([str(arguments.records), str(arguments.out)])
        run = build(compose(["data=records", override("data.path", literal(str(arguments.records))), *overrides]))
        page.describe(run, overrides, arguments.records, arguments.out or arguments.records.with_suffix(".html"))


if __name__ == "__main__":
    main()
