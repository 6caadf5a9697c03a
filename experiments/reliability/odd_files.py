"""Gives odd rows to every reader, and odd files beside a good one: no exception, no hang, no lost row.

python experiments/reliability/odd_files.py                    # 50,000 rows, 45 files; the time per row and per file
python experiments/reliability/odd_files.py --rows 2000 --seed 1
"""

import argparse
import base64
import bz2
import gzip
import io
import json
import os
import random
import resource
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from conftest import collected  # noqa: E402

from drift.records import write_jsonl  # noqa: E402

MOST_SECONDS = 120  # for one file
PLAIN = {"near_duplicates": None}  # which takes longer than all the reading
USER, REPLY = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello there"}
COMPLETION = {"response": "a", "annotations": {"honesty": {"Rating": "1"}}, "critique": "So so.", "overall_score": 5.0}
VALID = {
    "messages": {"id": "a", "messages": [USER, REPLY | {"rating": -1, "comment": "Too long."}, USER, REPLY], "model": "m"},
    "jsonl": {"prompt": [USER], "rejected": [REPLY], "user_preference": {"content": "No."}},
    "preference": {"prompt": [USER], "chosen": [REPLY], "rejected": [REPLY | {"content": "No"}], "score_chosen": 2},
    "sharegpt": {"id": "a", "conversations": [{"from": who, "value": text} for who, text in
                                                (("human", "Hi"), ("gpt", "Yes"), ("human", "That is wrong."))]},
    "wildchat": {"conversation_hash": "a", "conversation": [USER | {"toxic": False}, REPLY, USER | {"content": "That is wrong."}],
                 "language": "English"},
    "wildfeedback_pairs": {"conversations": [{"from": "human", "value": "Hi"}], "chosen": {"value": "a"},
                           "rejected": {"value": "b"}},
    "ultrafeedback": {
        "instruction": "x", "completions": [COMPLETION, COMPLETION | {"response": "b", "annotations": {"honesty": {"Rating": "5"}}}]
    },
    "records": {
        "id": "a:1", "conversation": "a", "prompt": [USER], "reply": "Yo", "label": "dsat", "ended": True, "feedback": "No.",
        "revised": None, "satisfied": False, "truth": None,
        "provenance": {"source": "messages", "row": 1, "turn": 1, "category": "style", "confidence": 0.9, "detector": "rules"},
    },
    "wildfeedback": {"UtteranceId": 0, "Role": "User", "Content": "Hi", "Satisfaction": False, "Disatisfaction": True},
}  # fmt: skip
SETTINGS = {"messages": {"displeased_up_to": -1, "pleased_from": 1}}
JUNK = [
    None, 0, -1.5, True, "", " ", "text", "\u200b", [], {}, [None], [{}], {"role": "user"}, [[]], float("inf"), float("nan"),
    "\ud83d", 10**30, "\0", "\x1b[31m", "\u202e", "a" * 5000, {"\ud83d": 1}, "[{'role': 'user'}]", '{"role": 1}', -0.0,
    [[[[[[]]]]]], "٣", "😀",
]  # fmt: skip


def spoilt(value, rng):
    """The value with one part somewhere replaced, removed, doubled or wrapped."""
    if rng.random() < 0.25 or not isinstance(value, dict | list) or not value:
        return [value] if rng.random() < 0.1 else rng.choice(JUNK)
    if isinstance(value, dict):
        key = rng.choice(list(value))
        return {k: v for k, v in value.items() if k != key} if rng.random() < 0.2 else value | {key: spoilt(value[key], rng)}
    i = rng.randrange(len(value))
    if rng.random() < 0.2:
        return value[:i] + value[i + 1 :] if rng.random() < 0.5 else value[: i + 1] + value[i:]
    return [*value[:i], spoilt(value[i], rng), *value[i + 1 :]]


def odd_rows(source, count, rng):
    """Lines of json, a tenth of them cut or with a byte changed, and some nested deeply."""
    lines = [json.dumps(VALID[source]).encode()]  # what a file holds is told by its first row
    while len(lines) < count:
        row = VALID[source]
        for _ in range(rng.randrange(4)):
            row = spoilt(row, rng)
        text = json.dumps(row, ensure_ascii=rng.random() < 0.5).replace('"Hi"', f'"Hi {len(lines)}"')
        line = bytearray(text.encode("utf-8", "surrogatepass"))
        if rng.random() < 0.05:
            line = line[: rng.randrange(1, len(line) + 1)]
        if rng.random() < 0.05:
            places = [i for i, byte in enumerate(line) if not chr(byte).isalpha() and byte != 95]  # a field's other name is refused
            line[rng.choice(places or [0])] = rng.choice([c for c in range(256) if c not in b" \t\r\n\0"])
        if rng.random() < 0.002:
            line = b'{"messages": ' + b"[" * (depth := rng.randrange(2000)) + b"]" * depth + b"}"
        lines.append(bytes(line))
    return lines


def rows_kept(folder, count, rng):
    """Every reader on its share of odd rows, as lines, as packed lines and as an array; returns what became of them."""
    found = Counter()
    for source in VALID:
        lines = odd_rows(source, count // len(VALID), rng)
        file = folder / f"{source}.jsonl"
        if source == "wildfeedback":
            file = folder / "sat_dsat_annotation.jsonl"
        file.write_bytes(b"\n".join(lines))
        done = written(collected(file, source=source, intake=PLAIN, **SETTINGS.get(source, {})), folder)
        given = done.facts.get("conversations read", 0) + done.facts.get("rows read", 0)
        if source != "wildfeedback":  # one of its conversations is several rows
            assert given == len(lines), (source, given, len(lines))
        accounted(done, source)
        print(f"{source}: {len(lines)} rows, {len(done.records)} records, {len(done.set_aside)} set aside", flush=True)
        found.update({"rows": len(lines), "records": len(done.records), "set aside": len(done.set_aside)})
    return found


def accounted(done, source):
    """A conversation gives records, is set aside, or is counted as one without feedback: none is passed over."""
    places = {record.provenance["row"] for record in done.records if record.provenance and "row" in record.provenance}
    places |= {row["row"] for row in done.set_aside}
    silent = done.facts.get("conversations without feedback", 0)
    if source not in ("records", "wildfeedback"):
        assert len(places) + silent >= done.facts["conversations read"], source


def written(done, folder):
    """What was collected, once it is on the disk: nothing in it may be what UTF-8 can't say."""
    write_jsonl(folder / "records.out", done.records)
    write_jsonl(folder / "quarantine.out", done.set_aside)
    return done


def talk(i):
    turns = [f"What about tea, number {i}?", f"It has {i} leaves.", "That is wrong."]
    return {"messages": [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(turns)]}


def table(rows, **settings):
    import pyarrow
    import pyarrow.parquet

    held = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), held, **settings)
    return held.getvalue()


def same(count):
    """A table of one text of a MiB so many times, in a few kB."""
    import pyarrow
    import pyarrow.parquet

    held, text = io.BytesIO(), pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * count, pyarrow.int32()), ["x" * (1 << 20)])
    pyarrow.parquet.write_table(pyarrow.table({"text": text}), held, store_schema=False)
    return held.getvalue()


def stream(rows):
    import pyarrow
    import pyarrow.ipc

    held, batch = io.BytesIO(), pyarrow.Table.from_pylist(rows)
    with pyarrow.ipc.new_stream(held, batch.schema) as out:
        out.write_table(batch, max_chunksize=40)
    return held.getvalue()


def flipped(data, rng, count=20):
    changed = bytearray(data)
    for _ in range(count):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def bomb(piece, times):
    """gzip of a text many times over, in members of at most 64 of it."""
    together = min(64, times)
    return gzip.compress(piece * together) * (times // together)


def odd_files(rng, scale):
    """(name, bytes) of files that are damaged, mislabelled or hostile. `scale`: MiB that a bomb unpacks to."""
    rows = [talk(i) for i in range(200)]
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    array, pretty = json.dumps(rows).encode(), json.dumps(rows, indent=1).encode()
    packed, parquet, arrow = gzip.compress(lines), table(rows, row_group_size=40), stream(rows)
    large = b"x" * (1 << 20)
    return [
        ("cut.jsonl.gz", packed[: len(packed) // 2]), ("cut.json.gz", gzip.compress(array)[:-9]),
        ("flipped.jsonl.gz", flipped(packed, rng)),
        ("plain.jsonl.gz", lines), ("packed.jsonl", packed), ("empty.gz.jsonl.gz", b""), ("header.jsonl.gz", packed[:10]),
        ("noise.jsonl.gz", b"\x1f\x8b" + rng.randbytes(5000)),
        ("tail.jsonl.gz", packed + b"no gzip"), ("twice.jsonl.gz", packed + packed),
        ("cut.json", array[: len(array) // 2]), ("tail.json", array + b"]]"), ("flipped.json", flipped(array, rng)),
        ("flipped.jsonl", flipped(lines, rng)), ("lines.json", lines), ("array.jsonl", array), ("pretty.jsonl", pretty),
        ("wrapped.json", json.dumps({"n": 1, "data": rows}).encode()), ("empty.json", b""), ("empty.jsonl", b""),
        ("empty.parquet", b""),
        ("empty.arrow", b""), ("number.json", b"12"), ("null.json", b"null"), ("list.json", b"[[[[]]]]"),
        ("pointer.parquet", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"),
        ("pointer.jsonl", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"),
        ("cut.parquet", parquet[: len(parquet) // 2]), ("noise.parquet", b"PAR1" + rng.randbytes(5000) + b"PAR1"),
        *((f"flipped{i}.parquet", flipped(parquet, rng, 1 + 5 * i)) for i in range(4)),
        *((f"flipped{i}.arrow", flipped(arrow, rng, 1 + 5 * i)) for i in range(4)), ("cut.arrow", arrow[: len(arrow) * 2 // 3]),
        ("utf16.jsonl", lines.decode().encode("utf-16")), ("wide.jsonl", lines.decode().encode("utf-16-le")),
        ("latin.jsonl", b"".join(json.dumps(row).encode()[:-2] + b"\xe9\"}\n" for row in rows)),
        ("cr.jsonl", lines.replace(b"\n", b"\r")), ("hole.jsonl", bytes(1 << 20) + lines), 
        ("zip.jsonl", b"PK\x03\x04" + rng.randbytes(900)), ("bz.jsonl", bz2.compress(lines)),
        ("noise.jsonl", rng.randbytes(1 << 20)), ("base64.json", base64.b64encode(rng.randbytes(1 << 16))),
        ("deep.json", b"[" * (1 << 20)), ("deep.jsonl", b"[" * (1 << 20) + b"\n" + lines),
        ("long.jsonl", b'{"messages": "' + large * min(scale, 100) + b'"}\n' + lines),
        ("lists.json", b'[{"messages": [' + b"[]," * (min(scale, 100) << 18) + b"[]]}]"),
        ("zeros.jsonl.gz", bomb(bytes(1 << 20), scale)), ("blank.jsonl.gz", bomb(b"\n" * (1 << 20), scale)),
        ("long.json.gz", bomb(b"[" + large, scale)), ("long.jsonl.gz", bomb(large, scale)),
        ("same.parquet", same(scale)),
    ]  # fmt: skip


def one_file(folder, name, data, good):
    """A log of this file and a good one; returns (records, rows set aside, seconds)."""
    log = folder / name.replace(".", "_")
    log.mkdir()
    (log / name).write_bytes(data)
    (log / "~good.jsonl").write_text("".join(json.dumps(row) + "\n" for row in good))
    started = time.monotonic()
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.alarm(MOST_SECONDS)
    done = written(collected(log, intake=PLAIN), folder)
    signal.alarm(0)
    kept = sum(record.provenance["file"] == "~good.jsonl" for record in done.records)
    assert kept == len(good), f"{name}: {kept} of the {len(good)} rows of the good file beside it"
    assert (
        not data
        or "blank" in name
        or name
        in {record.provenance["file"] for record in done.records} | {os.path.basename(row["file"]) for row in done.set_aside}
    ), f"{name} is not spoken of"
    (log / name).unlink()
    return len(done.records) - kept, len(done.set_aside), time.monotonic() - started


def no_files(folder):
    """Everything under a log's name that is no file: listed, never opened."""
    log = folder / "no files"
    (log / "folder.jsonl").mkdir(parents=True)
    os.mkfifo(log / "pipe.jsonl")
    bound = socket.socket(socket.AF_UNIX)
    bound.bind(os.path.relpath(log / "socket.jsonl"))
    for name, target in (("zero.json", "/dev/zero"), ("dead.json", "nowhere"), ("round.json", "round.json"), ("up", log)):
        (log / name).symlink_to(target)
    (log / "good.jsonl").write_text(json.dumps(talk("good")))
    done = written(collected(log, intake=PLAIN), folder)
    bound.close()
    assert len(done.records) == 1 and len(done.set_aside) == 7, done.set_aside


def memory():
    """The most that this process has taken so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def check(folder, *, num_rows, num_files, scale, seed):
    """Raises where something is lost, goes wrong or hangs. Returns (what became of the rows, the figures of every file)."""
    rng = random.Random(seed)
    rows = rows_kept(folder, num_rows, rng)
    no_files(folder)
    files = []
    for name, data in odd_files(rng, scale)[:num_files]:
        before = memory()
        figures = one_file(folder, name, data, [talk(f"good {i}") for i in range(5)])
        files.append((name, *figures, memory() - before))
        print("{:22} records {:5}  set aside {:5}  {:5.1f} s  memory {:+5.0f} MiB".format(*files[-1]), flush=True)
    return rows, files


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--files", type=int, default=1000, help="at most")
    parser.add_argument("--scale", type=int, default=1500, help="MiB that a bomb unpacks to")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        rows, files = check(Path(folder), num_rows=given.rows, num_files=given.files, scale=given.scale, seed=given.seed)
    print(dict(rows), f"{len(files)} files, {time.monotonic() - started:.0f} s, at most {memory():.0f} MiB")


if __name__ == "__main__":
    main()
