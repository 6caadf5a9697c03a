"""An engine's process: a JSON line to it, a JSON line back, what it prints in a file, and sentences when it fails."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drift.engine.ranks import no_rank
from drift.errors import UserError, writable

END = 30  # seconds for an orderly end; then the process and its children are killed
SHOWN = 300  # characters of its last words
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
FULL = ("out of memory", "no available memory", "can't allocate memory", "kv cache is needed", "less than desired")


@dataclass(frozen=True, kw_only=True)
class Engine:
    """A running process and the file with what it prints."""

    process: Any
    log: Path

    def send(self, request: Mapping[str, Any]) -> None:
        with suppress(BrokenPipeError):  # `receive` says why
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()

    def receive(self) -> dict[str, Any]:
        """Its next answer. Raises `UserError` if it has failed or ended."""
        line = self.process.stdout.readline()
        answer = json.loads(line) if line.endswith("\n") else {"error": self._last_words()}
        if "error" in answer:
            raise UserError(self._failed(answer["error"]))
        return answer

    def _failed(self, said: str) -> str:
        printed = self.log.read_text(encoding="utf-8", errors="replace")[-20_000:] if self.log.exists() else ""
        advice = "What led to it is in its log."
        if any(sign in f"{said} {printed}".lower() for sign in FULL):
            advice = (
                "It is short of memory. If other programs use the GPU, lower sampler.memory_share; if not, raise it, shorten "
                "sampler.max_prompt_tokens, or give each engine more GPUs (sampler.tensor_parallel)."
            )
        return (
            f"The sampling engine has failed: {' '.join(said.split())[:SHOWN]} {advice} Its log: {self.log}. Groups of replies "
            "that were finished are kept: the same command goes on from there."
        )

    def _last_words(self) -> str:
        """How a process ended that gave no reason."""
        try:
            code = self.process.wait(END)
        except subprocess.TimeoutExpired:
            return "it stopped answering."
        return f"it was ended by {signal.Signals(-code).name}." if code < 0 else f"it ended with status {code}."


@contextmanager
def start(command: Sequence[str], given: Mapping[str, str], log: Path) -> Iterator[Engine]:
    """Starts a process in a group of its own, and ends it and its children. `given`: environment variables."""
    with writable(log.parent, "sampler.log_dir"):
        log.parent.mkdir(parents=True, exist_ok=True)
        printed = open(log, "ab")  # noqa: SIM115
    environment = {"VLLM_HOST_IP": "127.0.0.1"} | no_rank(os.environ) | OFFLINE | dict(given)
    pipes: dict[str, Any] = {
        "stdin": subprocess.PIPE,
        "stdout": subprocess.PIPE,
        "stderr": printed,
        "text": True,
        "encoding": "utf-8",
    }
    with printed:
        process: Any = subprocess.Popen(command, env=environment, start_new_session=True, **pipes)
    try:
        yield Engine(process=process, log=log)
    finally:
        with suppress(OSError):  # what was not sent is of no use now
            process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            process.wait(END)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
