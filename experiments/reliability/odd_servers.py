"""Tests the client with odd answers, sent in every way that a server can, and with odd servers; then whole programs against them.

    python experiments/reliability/odd_servers.py FOLDER

Prints the kinds of cases, the number of failures and the longest time. About five minutes on two cores.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from judge_server import Server, endpoint  # noqa: E402
from network_watch import Watch  # noqa: E402
from odd_server import ANSWERS, KEY, SERVERS, OddServer, body, http  # noqa: E402

from drift.engine import answer  # noqa: E402
from drift.errors import UserError  # noqa: E402

answer.LONGEST_PAUSE = 0.5  # otherwise the server that asks for an hour takes a minute
os.environ["JUDGE_KEY"] = KEY
PRICE = 103e-6  # dollars of an answer that says its tokens, at a dollar a million
wrong: Counter[str] = Counter()


def must(holds: bool, what: str) -> None:
    if not holds:
        wrong[what] += 1
        print(f"  WRONG: {what}", flush=True)


def in_pieces(size, pause):
    def send(handler, data, first):
        for i in range(0, len(data), size):
            handler.wfile.write(data[i : i + size])
            time.sleep(pause)

    return send


def after(status, **headers):
    return lambda handler, data, first: handler.wfile.write(http("", status, **headers) if first else data)


WAYS = {  # how a server sends what it has: (handler, data, whether the question is new)
    "at once": lambda handler, data, first: handler.wfile.write(data),
    "in pieces of 700 bytes": in_pieces(700, 0.001),
    "half a second late": lambda handler, data, first: (time.sleep(0.5), handler.wfile.write(data)),
    "after an early hint": lambda handler, data, first: handler.wfile.write(b"HTTP/1.1 103 E\r\nlink: x\r\n\r\n" + data),
    "after a 429 with Retry-After": after(429, retry_after="0.05"),
    "after a 429 that names a date long ago": after(429, retry_after="Wed, 21 Oct 2015 07:28:00 GMT"),
    "after a 500": after(500, retry_after_ms="1"),
    "after a 503 with HTML": after(503, retry_after_ms="1"),
    "after hanging up": lambda handler, data, first: None if first else handler.wfile.write(data),
    "after half an answer": lambda handler, data, first: handler.wfile.write(http(body())[:-40] if first else data),
    "with bytes behind it": lambda handler, data, first: handler.wfile.write(data + b"HTTP/1.1 200 OK\r\n\r\n{}"),
}


def each_answer_in_every_way(folder: Path) -> float:
    """All odd answers between good ones; returns the longest time."""
    longest = 0.0
    for number, (way, send) in enumerate(WAYS.items()):
        seen: Counter[str] = Counter()

        def act(handler, text, send=send, seen=seen):
            seen[text] += 1
            send(handler, ANSWERS.get(text, (http(body()),))[0], seen[text] == 1)

        names = [name for odd in ANSWERS for name in (odd, f"good beside {odd}")]
        cache, begun = folder / f"way {number}", time.monotonic()
        with OddServer(act) as server:
            settings = {"retries": 1, "timeout_seconds": 5.0, "concurrency": 8, "key_variable": "JUDGE_KEY"}
            which = endpoint(server, cache, **settings)
            try:
                which.ask([[{"role": "user", "content": name}] for name in names], lambda count: None, max_tokens=20)
                must(False, f"{way}: no error although answers are missing")
            except UserError as error:
                failed = sum(fate == "failed" for _, fate in ANSWERS.values())
                must(f"left {failed} of the {len(names)} questions" in str(error) and KEY not in str(error), f"{way}: {error}")
        longest = max(longest, time.monotonic() - begun)
        entries = [json.loads(file.read_text()) for file in cache.iterdir()]
        kept = {entry["request"]["messages"][0]["content"] for entry in entries if entry["answer"]}
        must(kept == {name for name in names if ANSWERS.get(name, (0, "answered"))[1] == "answered"}, f"{way}: cache")
        must(abs(sum(entry["dollars"] for entry in entries) - which.budget.used) < 1e-9, f"{way}: dollars in the cache")
        must(which.budget.used >= len(kept - set(ANSWERS)) * PRICE * 0.999, f"{way}: dollars")
    return longest


def log(folder: Path, turns: int) -> Path:
    said = "hmm, number {} reads a bit stiff though"
    rows = [
        {"messages": [{"role": "user", "content": f"Tell me about tea, part {i}."}, {"role": "assistant", "content": "Tea is hot."},
                      {"role": "user", "content": said.format(i)}]} for i in range(turns)
    ]  # fmt: skip
    file = folder / "log.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def settings(folder: Path, port: int, **more) -> list[str]:
    plain = {"url": f"http://127.0.0.1:{port}/v1", "model": "m", "key_variable": "JUDGE_KEY", "cache_dir": folder / "cache",
             "timeout_seconds": 0.5, "retries": 1, "dollars_per_million_input": 1.0} | more  # fmt: skip
    return ["mine=cascade", "mine.unsure=0", "intake.near_duplicates=null", *(f"mine.endpoint.{n}={v}" for n, v in plain.items())]


def mine(folder: Path, file: Path, arguments: list[str], out: str, under=(), **environment) -> subprocess.Popen:
    command = [*under, sys.executable, "-m", "drift", "mine", str(file), "--out", str(folder / out), *arguments]
    how = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "env": os.environ | environment}
    return subprocess.Popen(command, cwd=ROOT, **how)


def holds_key(folder: Path) -> list[str]:
    return [
        str(file) for file in folder.rglob("*") if file.is_file() and not file.is_symlink() and KEY.encode() in file.read_bytes()
    ]


def whole_programs(folder: Path) -> float:
    """`drift mine` and a run against every odd server: an exit code, a sentence, no key, no answer kept; returns the longest."""
    longest = 0.0
    for number, (name, act) in enumerate(SERVERS.items()):
        place = folder / f"server {number}"
        place.mkdir()
        with OddServer(lambda handler, text, act=act: act(handler)) as server, OddServer(lambda handler, text: None) as other:
            server.other, begun = other.server_port, time.monotonic()
            done = mine(place, log(place, 12), settings(place, server.server_port), "records.jsonl")
            printed, _ = done.communicate(timeout=120)
        longest = max(longest, time.monotonic() - begun)
        sentence = "questions unanswered" in printed and "Traceback" not in printed
        must(done.returncode == 1 and sentence and KEY not in printed, f"{name}: {printed[-300:]}")
        must(not holds_key(place) and not other.served and not (place / "records.jsonl").exists(), f"{name}: files")
        kept = [json.loads(file.read_text())["answer"] for file in (place / "cache").iterdir()]
        must(not any(kept), f"{name}: cache")
    place = folder / "run"
    place.mkdir()
    with OddServer(lambda handler, text: SERVERS["repeats the key"](handler)) as server:
        arguments = ["model=tiny", "data=messages", f"data.path={log(place, 12)}", *settings(place, server.server_port)]
        folders = [f"model.cache_dir={place}/models", f"store.dir={place}/store", f"hydra.run.dir={place}/out"]
        done = subprocess.run([sys.executable, "run.py", *arguments, *folders], cwd=ROOT, capture_output=True, text=True)
    must(
        "status 401" in done.stderr and KEY not in done.stdout + done.stderr and not holds_key(place), f"run: {done.stderr[-300:]}"
    )
    must("status 401" in (place / "out/run.json").read_text(), "run.json does not say why")
    return longest


def twins_and_kills(folder: Path) -> None:
    """Three processes with one cache ask once; a killed one costs what was under way, and no more, beyond its cap's resumption."""
    with Server(slow=0.05) as server:
        file = log(folder, 60)
        ample = settings(folder, server.server_port, max_dollars=100, timeout_seconds=5)
        twins = [mine(folder, file, ample, f"{i}.jsonl") for i in range(3)]
        must([twin.wait(timeout=200) for twin in twins] == [0, 0, 0], "twins: exit codes")
        must(server.served == 60, f"twins: {server.served} requests for 60 questions")
    for seconds in (0.2, 0.5, 0.8):
        place = folder / f"killed {seconds}"
        place.mkdir()
        with Server(slow=0.1) as server:
            arguments = settings(place, server.server_port, max_dollars=30, concurrency=4, timeout_seconds=5)
            first = mine(place, log(place, 60), arguments, "records.jsonl")
            while not server.served and first.poll() is None:
                time.sleep(0.01)
            time.sleep(seconds)
            first.send_signal(signal.SIGKILL)
            first.communicate()
            second = mine(place, place / "log.jsonl", arguments, "records.jsonl")
            printed, _ = second.communicate(timeout=100)
            must(second.returncode == 1 and "max_dollars=30" in printed, f"killed: {printed[-300:]}")
            must(30 <= server.served <= 34, f"killed after {seconds} s: {server.served} dollars for a cap of 30, 4 at once")
            print(f"  killed after {seconds} s: {server.served} dollars spent of 30", flush=True)
        must(not [file for file in (place / "cache").iterdir() if file.suffix != ".json"], "killed: left-over files in the cache")


def sockets(folder: Path) -> None:
    """A run with offline W&B, watched."""
    with Watch(folder) as watch:
        small = ["model=tiny", "iterations=1", "data.num_prompts=12", "examples_per_iteration=6"]
        small += ["evaluation.deployment.num_prompts=6"]
        folders = [f"model.cache_dir={folder}/models", f"store.dir={folder}/store", f"hydra.run.dir={folder}/out"]
        shell = watch.environment | {"WANDB_MODE": "online", "WANDB_ERROR_REPORTING": "true", "HF_HUB_OFFLINE": "0"}
        command = [*watch.prefix, sys.executable, "run.py", *small, *folders, "logger=wandb"]
        done = subprocess.run(command, cwd=ROOT, env=os.environ | shell, capture_output=True)
        must(done.returncode == 0 and not watch.attempts(), f"sockets: {watch.attempts()}")


def main() -> None:
    folder = Path(sys.argv[1]).resolve()
    for check in (each_answer_in_every_way, whole_programs, twins_and_kills, sockets):
        place = folder / check.__name__
        place.mkdir(parents=True)
        begun, longest = time.monotonic(), check(place)
        most = f", the longest {longest:.1f} s" if longest else ""
        print(f"{check.__name__}: {time.monotonic() - begun:.0f} s{most}; wrong so far: {wrong.total()}", flush=True)
    print(f"{len(ANSWERS)} odd answers x {len(WAYS)} ways, {len(SERVERS)} odd servers: {wrong.total()} wrong")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    threading.excepthook = lambda arguments: None  # those who ask hang up
    main()
