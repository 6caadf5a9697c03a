"""What is done before any model is trained and after: logs to records, records described, reports built anew.

`mine` and `describe` take the same settings as run.py, by the same names: `mine=rules`, `intake.languages=[en]`,
`model=qwen2.5-7b-instruct`.
"""

import argparse
import sys
from pathlib import Path

from drift import quiet, stop
from drift.errors import UserError

CONF = Path(__file__).resolve().parents[1] / "conf"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m drift", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    mine = commands.add_parser("mine", help="judge the replies of chat logs, and write those that pleased or displeased as records")
    mine.add_argument("logs", help="file, directory, or hub data set in the cache")
    mine.add_argument(
        "--source", default="messages", help="what kind of log it is: an option of the config group data (default: messages)"
    )
    mine.add_argument(
        "--out", required=True, type=Path, help="records.jsonl to write; rows set aside go to quarantine.jsonl beside it"
    )
    describe = commands.add_parser("describe", help="say what a file of records holds, as a table and as an HTML page")
    describe.add_argument("records", type=Path)
    describe.add_argument("--out", type=Path, help="the page to write (default: beside the records)")
    report = commands.add_parser("report", help="build the report of a run or a study anew, finished or not")
    report.add_argument("folder", type=Path, help="the folder of a run, or of a sweep")
    workspace = commands.add_parser("workspace", help="make a workspace in W&B that lays the methods of a project side by side")
    workspace.add_argument("--entity", required=True, help="user or team")
    workspace.add_argument("--project", default="drift")
    workspace.add_argument("--spec", type=Path, help="write its specification here, and send nothing")
    arguments, overrides = parser.parse_known_args()
    quiet.libraries(None)
    for wrong in (item for item in overrides if "=" not in item or item.startswith("-")):
        parser.error(f"{wrong} is neither an option nor a setting of the form key=value")
    if arguments.command == "report":
        from drift.report import html

        print(f"Report: {html.report_of(arguments.folder)}")
    elif arguments.command == "workspace":
        from drift.report import workspace as page

        page.workspace(arguments.entity, arguments.project, arguments.spec)
    elif arguments.command == "mine":
        from drift.data import mined

        mined.mine(compose([f"data={arguments.source}", f"data.path={arguments.logs}", *overrides]), arguments.out)
    else:
        from drift.report import describe as page

        page.describe(compose(overrides), arguments.records, arguments.out or arguments.records.with_suffix(".html"))


def compose(overrides: list[str]):
    """The checked run of a composed config (see drift/config.py)."""
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException

    from drift.config import build, explain

    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return build(compose("config", overrides))
    except HydraException as error:
        raise UserError(explain(error, CONF)) from error


if __name__ == "__main__":
    stop.install()
    try:
        main()
    except UserError as error:
        sys.exit(f"\n{error}")
