"""Files of other people: damaged, cut, in another encoding, under a wrong name, or no files at all. The rows that can be read are
read, and the rest is named."""

import base64
import bz2
import gzip
import json
import os
import random
import socket
import time

import pyarrow
import pyarrow.ipc
import pyarrow.parquet
import pytest
from conftest import collected, defaults, made

from drift.console import visible
from drift.errors import UserError
from drift.intake import aside, contents, json_rows, redact
from drift.intake.files import snapshot
from drift.intake.intake import snapshots as contents_of
from drift.intake.rows import BadRow, read_rows
from drift.mine.rules import Rules


def talk(number, said="That is wrong."):
    turns = [f"What about tea, number {number}?", f"It has {number} leaves.", said]
    return {"messages": [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(turns)]}


TALKS = [talk(i) for i in range(40)]
LINES = "".join(json.dumps(row) + "\n" for row in TALKS).encode()
ARRAY = json.dumps(TALKS).encode()


def rows_of(file, data):
    """(rows that were read, BadRows) of a file with these bytes."""
    file.write_bytes(data)
    found = list(read_rows(file))
    return [row for _, row in found if not isinstance(row, BadRow)], [(n, row) for n, row in found if isinstance(row, BadRow)]


def noise(count):
    """Text that does not compress, so that half of the packed bytes are half of the rows."""
    rng = random.Random(0)
    return [{"n": i, "text": rng.randbytes(300).hex()} for i in range(count)]


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.json.gz"])
def test_rows_before_the_damage_of_a_gzip_file_are_read(name, tmp_path):
    rows = noise(2000)
    plain = json.dumps(rows) if "json." in name else "".join(json.dumps(row) + "\n" for row in rows)
    whole = gzip.compress(plain.encode())
    good, bad = rows_of(tmp_path / name, whole[: len(whole) // 2])
    assert good == rows[: len(good)] and 950 < len(good) < 1050
    assert [(n, row.reason, row.found) for n, row in bad] == [(len(good) + 1, "damaged file", "gzip data that is cut off")]
    flipped = bytearray(whole)
    flipped[-6] ^= 1
    good, bad = rows_of(tmp_path / name, bytes(flipped))
    assert good == rows and "checksum is wrong" in bad[0][1].found
    good, bad = rows_of(tmp_path / name, whole[: len(whole) // 2] + b"\0" * 10_000)
    assert good[:900] == rows[:900] and "gzip data" in bad[-1][1].found


def test_gzip_is_recognised_by_content_and_may_have_several_members(tmp_path):
    two = gzip.compress(LINES[: len(LINES) // 2]) + b"\0" * 512 + gzip.compress(LINES[len(LINES) // 2 :])
    for name, data in (("a.jsonl.gz", two), ("a.jsonl", two), ("a.jsonl.gz", LINES), ("a.json", gzip.compress(ARRAY))):
        assert rows_of(tmp_path / name, data) == (TALKS, []), name
    good, bad = rows_of(tmp_path / "a.jsonl.gz", gzip.compress(LINES) + b"no gzip")
    assert good == TALKS and bad[0][1].reason == "damaged file"
    assert rows_of(tmp_path / "a.jsonl.gz", b"")[1][0][1].found == "no bytes at all"


def test_row_groups_before_the_damage_of_a_table_are_read(tmp_path):
    rows = noise(200)
    table = pyarrow.Table.from_pylist(rows)
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet", row_group_size=50, use_dictionary=False, compression="gzip")
    whole = (tmp_path / "a.parquet").read_bytes()
    assert rows_of(tmp_path / "a.parquet", whole) == (rows, [])
    broken = whole[: len(whole) * 5 // 8] + bytes(len(whole) // 8) + whole[len(whole) * 6 // 8 :]
    good, bad = rows_of(tmp_path / "a.parquet", broken)
    assert 100 <= len(good) < 150 and good == rows[: len(good)] and bad[0][1].reason == "damaged file"
    for data in (whole[:-100], b"", b"PAR1", os.urandom(500)):
        good, bad = rows_of(tmp_path / "a.parquet", data)
        assert not good and [(n, row.reason) for n, row in bad] == [(0, "damaged file")]
    with pyarrow.ipc.new_stream(tmp_path / "a.arrow", table.schema) as stream:
        stream.write_table(table, max_chunksize=50)
    whole = (tmp_path / "a.arrow").read_bytes()
    assert rows_of(tmp_path / "a.arrow", whole) == (rows, [])
    good, bad = rows_of(tmp_path / "a.arrow", whole[: len(whole) // 2])
    assert len(good) in (50, 100) and bad[0][1].reason == "damaged file"


def test_a_table_value_that_is_not_utf8_sets_only_its_row_aside(tmp_path):
    binary = pyarrow.array([b"good", b"\xff\xfe", b"fine"])
    damaged = pyarrow.Array.from_buffers(pyarrow.string(), 3, binary.buffers())
    pyarrow.parquet.write_table(pyarrow.table({"text": damaged}), tmp_path / "a.parquet")
    found = list(read_rows(tmp_path / "a.parquet"))
    assert [row for _, row in found if isinstance(row, dict)] == [{"text": "good"}, {"text": "fine"}]
    assert found[1][1].reason == "not UTF-8"


def test_files_that_are_not_logs_are_reported_with_what_to_do(tmp_path):
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0a\nsize 12\n"
    for name in ("a.json", "a.jsonl", "a.parquet", "a.jsonl.gz"):
        good, bad = rows_of(tmp_path / name, pointer)
        assert (
            not good
            and [row.reason for _, row in bad] == ["Git LFS pointer"]
            and f"git lfs pull --include='*{name}'" in bad[0][1].remedy
        )
    good, bad = rows_of(tmp_path / "a.jsonl", bz2.compress(LINES))
    assert not good and bad[0][1].found == "a bzip2 file"


def test_ratings_of_a_database_are_numbers(tmp_path):
    """Columns of the type NUMERIC come as decimals."""
    rows = [talk(i)["messages"] for i in range(2)]
    ratings = pyarrow.array([-1, 1], pyarrow.decimal128(3, 0))
    pyarrow.parquet.write_table(pyarrow.table({"messages": rows, "rating": ratings}), tmp_path / "log.parquet")
    assert [record.label for record in collected(tmp_path / "log.parquet").records] == ["dsat", "sat"]


def test_an_empty_file_is_named(tmp_path):
    pyarrow.parquet.write_table(pyarrow.table({"messages": pyarrow.array([], pyarrow.string())}), tmp_path / "none.parquet")
    assert [row.reason for _, row in read_rows(tmp_path / "none.parquet")] == ["empty file"]
    for name, data in (
        ("a.jsonl", b""),
        ("a.jsonl", b"\n \n"),
        ("a.json", b""),
        ("a.json", b"[]"),
        ("a.jsonl.gz", gzip.compress(b"")),
    ):
        good, bad = rows_of(tmp_path / name, data)
        assert not good and [(row.field, row.reason) for _, row in bad] == [("(file)", "empty file")], (name, data)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_decides_the_encoding(encoding, tmp_path):
    rows = [talk("é 日本 😀"), talk(2)]
    for name, text in (
        ("a.json", json.dumps(rows, ensure_ascii=False)),
        ("a.jsonl", "\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows)),
    ):
        assert rows_of(tmp_path / name, text.encode(encoding)) == (rows, []), name
        assert rows_of(tmp_path / f"{name}.gz", gzip.compress(text.encode(encoding))) == (rows, []), name


def test_a_file_in_another_encoding_is_one_message_and_single_bytes_cost_their_rows(tmp_path):
    text = "".join(json.dumps(talk("Müße"), ensure_ascii=False) + "\n" for _ in range(50))
    good, bad = rows_of(tmp_path / "a.jsonl", text.encode("cp1252"))
    assert not good and [(n, row.reason) for n, row in bad] == [(0, "not UTF-8")]
    assert "none of 50 rows" in bad[0][1].found and bad[0][1].remedy.startswith("save the file as UTF-8")
    assert rows_of(tmp_path / "a.json", json.dumps(TALKS).encode("utf-16-le"))[1][0][1].remedy.startswith("save the file as UTF-8")
    good, bad = rows_of(tmp_path / "a.jsonl", LINES + text.encode("cp1252"))
    assert good == TALKS and [(n, row.reason) for n, row in bad] == [(41 + i, "not UTF-8") for i in range(50)]


def test_any_line_end_and_a_block_of_zeros_are_read(tmp_path):
    for end in (b"\r", b"\n", b"\r\n"):
        assert rows_of(tmp_path / "a.jsonl", LINES.replace(b"\n", end)) == (TALKS, [])
    assert rows_of(tmp_path / "a.jsonl", bytes(100_000) + LINES) == (TALKS, [])


def test_the_format_of_a_file_is_recognised_by_its_content(tmp_path):
    pretty = json.dumps(TALKS, indent=1).encode()
    objects = b"\n".join(json.dumps(row, indent=1).encode() for row in TALKS)
    for name in ("a.json", "a.jsonl", "a.ndjson"):
        for data in (LINES, ARRAY, pretty, objects):
            assert rows_of(tmp_path / name, data) == (TALKS, []), (name, data[:20])
    assert rows_of(tmp_path / "a.json", json.dumps(TALKS[0]).encode()) == (TALKS[:1], [])
    assert rows_of(tmp_path / "a.json", ARRAY + b"\n" + ARRAY) == (TALKS * 2, [])
    good, bad = rows_of(tmp_path / "a.json", ARRAY + b" and more")
    assert good == TALKS and bad[0][1].reason == "damaged file"
    good, bad = rows_of(tmp_path / "a.json", json.dumps({"version": 3, "data": TALKS}).encode())
    assert not good and "a list under 'data'" in bad[0][1].found


def test_a_damaged_file_costs_no_row_of_the_others(tmp_path):
    (tmp_path / "1.jsonl.gz").write_bytes(gzip.compress(LINES)[:-20])
    (tmp_path / "2.parquet").write_bytes(b"PAR1 and no more")
    (tmp_path / "3.jsonl").write_bytes(json.dumps(talk("last")).encode())
    found = collected(tmp_path)
    assert found.records[-1].reply == "It has last leaves." and len(found.records) > 30
    assert [os.path.basename(row["file"]) for row in found.set_aside] == ["1.jsonl.gz", "2.parquet"]


def test_pipes_sockets_devices_and_links_to_nothing_are_listed_and_never_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.jsonl")
    bound = socket.socket(socket.AF_UNIX)
    bound.bind(os.path.relpath(tmp_path / "socket.jsonl"))
    for name, target in (("zero.json", "/dev/zero"), ("dead.jsonl", "nowhere"), ("round.jsonl", "round.jsonl"), ("to", tmp_path)):
        (tmp_path / name).symlink_to(target)
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "good.jsonl").write_bytes(LINES)
    (tmp_path / os.fsdecode(b"caf\xe9.jsonl")).write_bytes(json.dumps(talk("named")).encode())
    found = collected(tmp_path)
    bound.close()
    assert len(found.records) == 41 and found.records[0].provenance["file"] == "caf?.jsonl"
    assert {os.path.basename(row["file"]): row["found"] for row in found.set_aside} == {
        "pipe.jsonl": "a pipe", "socket.jsonl": "a socket", "zero.json": "a link to a device", "dead.jsonl": "a link to nothing",
        "round.jsonl": "a link that leads to itself", "to": "a link to a folder", "folder.jsonl": "a folder",
    }  # fmt: skip
    with pytest.raises(UserError, match="is a pipe. Expected a file"):
        collected(tmp_path / "pipe.jsonl")


def test_a_folder_of_save_to_disk_is_read(tmp_path):
    for name in ("dataset_info.json", "state.json"):
        (tmp_path / name).write_text('{"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}')
    table = pyarrow.Table.from_pylist(TALKS)
    with pyarrow.ipc.new_stream(tmp_path / "data-00000-of-00001.arrow", table.schema) as stream:
        stream.write_table(table)
    found = collected(tmp_path)
    assert len(found.records) == 40 and not found.set_aside


def test_what_was_hashed_is_what_is_read_while_a_log_grows(tmp_path):
    log, intake = made(defaults("data/messages.yaml")["data"], path=str(tmp_path)), made(defaults("config.yaml")["intake"])
    file = tmp_path / "live.jsonl"
    file.write_bytes(LINES)
    held = contents_of(log)
    with open(file, "ab") as live:
        live.write(json.dumps(talk("later")).encode())
    assert len(intake.collect(log, Rules(), held).records) == 40
    assert intake.key(log, Rules(), held)["files"] != intake.key(log, Rules())["files"]
    file.write_bytes(LINES.replace(b"leaves", b"Leaves"))
    with pytest.raises(UserError, match="changed while it was being read"):
        intake.collect(log, Rules(), held)
    file.unlink()
    with pytest.raises(UserError, match="live.jsonl can't be read: No such file"):
        snapshot(file)


def test_rows_and_unpacked_files_have_a_size_limit_in_the_message(tmp_path, monkeypatch):
    monkeypatch.setattr(json_rows, "MAX_ROW_BYTES", 100_000)
    long = json.dumps(talk("x" * 300_000)).encode() + b"\n"
    good, bad = rows_of(tmp_path / "a.jsonl", LINES + long + LINES)
    assert good == TALKS * 2 and [(n, row.reason) for n, row in bad] == [(41, "row too large")]
    good, bad = rows_of(tmp_path / "a.json", b"[" + LINES.strip().replace(b"\n", b",") + b"," + b"[" * 300_000)
    assert good == TALKS and bad[0][1].found == "a larger one; the rest is not read"
    monkeypatch.setattr(contents, "SPARE_BYTES", 100_000)
    good, bad = rows_of(tmp_path / "a.jsonl.gz", gzip.compress(LINES + b"\n" * 2_000_000))
    assert good == TALKS and bad[0][1].reason == "file too large" and "300 times its size" in bad[0][1].expected


def test_a_log_of_bad_rows_takes_bounded_memory_and_each_is_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(aside, "MAX_LISTED", 10)
    found = collected(tmp_path / "a.jsonl", [*TALKS, *[{"messages": 3}] * 30])
    assert len(found.records) == 40 and len(found.set_aside) == 10
    assert found.facts["set aside and not listed, malformed row"] == 20


GOOD = {
    "id": "a:1", "conversation": "a", "prompt": [{"role": "user", "content": "Hi"}], "reply": "Yo", "label": "dsat", "ended": True,
    "feedback": None, "revised": None, "satisfied": False, "truth": None, "provenance": {"source": "messages", "confidence": 1.0},
}  # fmt: skip


def test_every_field_of_a_record_is_checked(tmp_path):
    odd = {
        "id": [None, "", 7, [], {}, "\ud83d"], "conversation": [None, "", 7, ["a"], {"a": 1}], "label": ["both", None, []],
        "ended": ["True", 1, None, float("nan")], "satisfied": ["no", None, 0.0], "feedback": [3, "", ["x"], {}, "\udc00"],
        "revised": [1.5, [{"role": "user"}], False], "truth": ["x", 3, {"a": 1}, {"\ud83d": "x"}], "reply": [None, 3, "\ud83d"],
        "prompt": ["Hi", [], [{"role": "assistant", "content": "x"}]],
        "provenance": [
            "x", 3, [], {"category": []}, {"detector": 3}, {"confidence": "0.9"}, {"confidence": 2}, {"confidence": True},
            {"row": "1"}, {"row": 1.5}, {"\ud83d": 1}, {"evidence": "\ud83d"}, {"x": [1]}, {"x": float("inf")}, {"x": "\ud83d"},
        ],
    }  # fmt: skip
    rows = [(field, GOOD | {field: value}) for field, values in odd.items() for value in values]
    rows += [
        ("more", GOOD | {"more": 1}),
        ("\ud83d", GOOD | {"\ud83d": 1}),
        ("truth", {k: v for k, v in GOOD.items() if k != "truth"}),
    ]
    found = collected(tmp_path / "r.jsonl", [GOOD, *(row for _, row in rows)], source="records")
    assert [record.id for record in found.records] == ["a:1"] and len(found.set_aside) == len(rows) == 57
    for (field, _), row in zip(rows, found.set_aside, strict=True):
        assert row["field"].split(".")[0].split("[")[0] == field.replace("\ud83d", "?"), row
    json.dumps(found.set_aside, ensure_ascii=False).encode()


def test_nan_is_null_where_a_record_may_have_null(tmp_path):
    nan, detector = float("nan"), {"detector": "rules", "category": None}
    row = GOOD | {"feedback": nan, "revised": nan, "truth": nan, "provenance": detector | {"category": nan, "confidence": nan}}
    record = collected(tmp_path / "r.jsonl", [row], source="records").records[0]
    assert (record.feedback, record.revised, record.truth, record.provenance) == (None, None, None, detector)


def test_a_reason_with_half_a_surrogate_pair_can_be_written(tmp_path):
    row = talk(1)
    row["messages"][1]["feedback"] = {"rating": "down", "reason": "odd \ud83d"}
    record = collected(tmp_path / "a.jsonl", [row]).records[0]
    assert record.provenance["evidence"] == "odd ?"


def test_foreign_text_cannot_control_the_terminal():
    text = "id\x1b[31m\x1b]0;x\x07\x9b1m\r\x00\x7f \u202eabc\u2066 \u2028 \ud83d\tend\nline é 日本"
    assert visible(text) == ("id\\x1b[31m\\x1b]0;x\\x07\\x9b1m\\r\\x00\\x7f \\u202eabc\\u2066 \\u2028 \\ud83d\tend\nline é 日本")
    assert visible("a\nb", breaks=False) == "a\\nb"


def test_foreign_text_cannot_control_the_terminal_through_mine(tmp_path, capsys):
    from drift.console import say, table

    say("equal to a\x1b]0;t\x07")
    table([{"category": "x\x1b[2J\ny", "records": "1"}])
    printed = capsys.readouterr().out
    assert "\x1b" not in printed and "\x07" not in printed and len(printed.splitlines()) == 3


def test_redaction_takes_time_in_proportion_to_the_text():
    """Eight times the text takes about eight times as long; it was sixty-four times. (Processor time, from 0.02 s on.)"""
    for part in ("a.b-", "sk-", "//"):
        taken = []
        for size in (8_000, 64_000):
            begun = time.process_time()
            redact.redact((part * size)[:size])
            taken.append(time.process_time() - begun)
        assert taken[1] < 24 * max(taken[0], 0.02), (part, taken)


def test_keys_are_found_wherever_they_stand_in_a_long_text():
    payload = base64.urlsafe_b64encode(json.dumps({"sub": "x" * 6000}).encode()).decode().rstrip("=")
    key, token = "ghp_" + "a1B2" * 9, f"eyJhbGciOiJIUzI1NiJ9.{payload}"
    for before in (0, 3_560, 4_080, 4_090, 7_650):
        assert redact.redact("x " * (before // 2) + f"{key} end") == "x " * (before // 2) + "[KEY] end"
        assert redact.redact("x " * (before // 2) + f"{token} end") == "x " * (before // 2) + "[KEY] end"
    private = "-----BEGIN RSA PRIVATE KEY-----\nMIIB\n" + "QUJD\n" * 2000 + "-----END RSA PRIVATE KEY-----"
    assert redact.redact(f"mine: {private}.") == "mine: [KEY]." and redact.redact(private[:5000]) == "[KEY]"
