"""docs/log-format.md: every example row becomes what the page says."""

import json
import re

import pytest
from conftest import ROOT, compose

from drift.config import build
from drift.errors import UserError

PAGE = (ROOT / "docs/log-format.md").read_text()
EXAMPLES = re.findall(r"```json\n(.+?)\n```\n((?:- .+\n)+)", PAGE)


def said_of(record):
    """A record as the page writes it."""
    text = f'{record.label.upper()} "{record.reply}"'
    if record.prompt[0]["role"] == "system":
        text += f' after "{record.prompt[0]["content"]}"'
    if record.feedback:
        text += f', feedback "{record.feedback}"'
    if record.revised:
        text += f', later reply "{record.revised}"' + (" that satisfied" if record.satisfied else "")
    return text


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_every_example_of_the_page_becomes_what_it_says(number, tmp_path):
    row, outcome = EXAMPLES[number]
    (tmp_path / "log.jsonl").write_text(json.dumps(json.loads(row)) + "\n")
    run = build(compose("data=messages", f"data.path={tmp_path}/log.jsonl", "mine=rules"))
    expected = [line.removeprefix("- ") for line in outcome.splitlines()]
    if expected[0].startswith("refused: "):
        with pytest.raises(UserError, match=expected[0].removeprefix("refused: ").replace(".", r"\.")):
            run.intake.collect(run.data, run.mine)
        return
    found = run.intake.collect(run.data, run.mine)
    said = [said_of(record) for record in found.records] + [f"set aside: {row['reason']}" for row in found.set_aside]
    assert said == expected


def test_the_conversion_of_a_table_makes_a_log(tmp_path, monkeypatch):
    """As Excel writes it: with a byte-order mark, quoted cells over several lines, and empty cells."""
    code = PAGE.split("```python\n")[1].split("```")[0]
    table = 'conversation,time,role,text,thumb,comment\r\nb,2,assistant,"It is a long,\n long story.",down,Too long.\r\n'
    table += "a,1,user,Was kostet Käse?,,\r\na,2,assistant,Zwei Euro.,up,\r\nb,1,user,Sum it up.,,\r\n"
    (tmp_path / "chats.csv").write_bytes(table.encode("utf-8-sig"))
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    run = build(compose("data=messages", "data.path=logs.jsonl", "mine=rules"))
    found = run.intake.collect(run.data, run.mine)
    said = ['SAT "Zwei Euro."', 'DSAT "It is a long,\n long story.", feedback "Too long."']
    assert [said_of(record) for record in found.records] == said and not found.set_aside


def test_the_page_has_an_example_of_every_form():
    assert len(EXAMPLES) == PAGE.count("```json") == 15
