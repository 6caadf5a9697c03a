"""Samples with vLLM: one process a phase, one engine a GPU.

Opening a policy starts a process for each engine, and closing ends them, which frees all memory: nothing is put to sleep, and no
weights are sent from training to sampling. An adapter is loaded from its directory, unmerged, under a name of its own. Prompts go
in as token ids in our own rendering. vLLM pins its torch, so it may be installed in an environment of its own (`python`)."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from drift.engine import ranks
from drift.errors import UserError, need_package
from drift.model import precision
from drift.model.files import read_object
from drift.model.policy import Policy, load_tokenizer
from drift.randomness import Noise
from drift.records import Prompt, Reply
from drift.sampler.contracts import Scored, Trained
from drift.sampler.process import start
from drift.sampler.transformers import fitting_ids, reply_of, stops_of

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # limits for an adapter's rank that vLLM knows
FINDS = "import importlib.util, sys; sys.exit(importlib.util.find_spec('vllm') is None)"
QUANTISED = (
    "sampler=vllm does not load weights as train=qlora quantises them, so it would sample from another model. Use "
    "sampler=transformers, or train=lora."
)


@dataclass(frozen=True, kw_only=True)
class VLLM:
    """`temperature` 0 is greedy. `tensor_parallel`: GPUs for each engine; there are as many engines as the GPUs allow.
    `memory_share`: of a GPU's memory, for weights, keys and values. `eager`: without CUDA graphs and compilation. `python`: the
    interpreter that has vLLM (null: this one). `log_dir`: for what the engines print."""

    temperature: float
    top_p: float
    max_new_tokens: int
    max_prompt_tokens: int
    group_size: int
    precision: precision.Precision
    tensor_parallel: int
    memory_share: float
    eager: bool
    python: str | None
    log_dir: str

    draws_at_once: ClassVar[Literal[True]] = True
    caveats: ClassVar[Sequence[str]] = (
        "Sampled by vLLM: each reply has its own seed, but what is computed together changes the last digits, so a run that is "
        "begun anew may draw other replies.",
    )

    def check(self) -> None:
        if not (self.temperature >= 0 and 0 < self.top_p <= 1 and 0 < self.memory_share <= 1):
            raise UserError("sampler: expected temperature >= 0, 0 < top_p <= 1 and 0 < memory_share <= 1.")
        if min(self.max_new_tokens, self.max_prompt_tokens, self.group_size, self.tensor_parallel) < 1:
            raise UserError("sampler: max_new_tokens, max_prompt_tokens, group_size and tensor_parallel must be at least 1.")
        if self.python is None:
            need_package("vllm", "sampler=vllm (or name the interpreter of another environment, sampler.python=PATH)", extra="vllm")
        elif shutil.which(self.python) is None:
            raise UserError(f"sampler.python={self.python}: expected the path of a Python interpreter that has vLLM.")
        elif subprocess.run([self.python, "-c", FINDS], capture_output=True, check=False).returncode:
            raise UserError(f"sampler.python={self.python}: this interpreter does not find vLLM. Install vllm in its environment.")

    def check_policy(self, trained: Trained) -> None:
        if trained == "nf4":
            raise UserError(QUANTISED)

    def key(self) -> dict[str, Any]:
        """The settings that a reply depends on; how many are computed together is among them."""
        names = ("temperature", "top_p", "max_new_tokens", "max_prompt_tokens", "group_size", "tensor_parallel")
        return {name: getattr(self, name) for name in names} | {"precision": precision.resolve(self.precision)}

    @contextmanager
    def open(self, policy: Policy):
        """Starts the engines; yields `generate(prompts, noise, tick) -> list of replies`; ends them."""
        with self._opened(policy) as draw:

            def generate(prompts: Sequence[Prompt], noise: Sequence[Noise], tick: Callable[[float], None]) -> list[Reply | None]:
                return [found and found.reply for found in draw(prompts, noise, tick)]

            yield generate

    def draw_scored(self, policy: Policy, prompts: Sequence[Prompt], noise: Sequence[Noise]) -> list[Scored | None]:
        """A reply to each prompt, with vLLM's own log-probabilities."""
        with self._opened(policy) as draw:
            return draw(prompts, noise, lambda share: None)

    @contextmanager
    def _opened(self, policy: Policy):
        """Starts the engines; yields `draw(prompts, noise, tick)`, which gives a `Scored` for each prompt or None; ends them."""
        if policy.quantization != "none":
            raise UserError(QUANTISED)
        tokenizer, first = load_tokenizer(policy), self._first(policy)
        stops = stops_of(policy, tokenizer)
        sampling = {
            "temperature": self.temperature, "top_p": self.top_p, "max_tokens": self.max_new_tokens, "logprobs": 0,
            "stop_token_ids": sorted(stops), "detokenize": False,
        }  # fmt: skip

        def draw(prompts: Sequence[Prompt], noise: Sequence[Noise], tick: Callable[[float], None]) -> list[Scored | None]:
            known = {i: ids for i, prompt in enumerate(prompts) if (ids := fitting_ids(tokenizer, prompt, self.max_prompt_tokens))}
            parts = [list(known)[k :: len(engines)] for k in range(len(engines))]
            for engine, part in zip(engines, parts, strict=True):
                seeds = [noise[i].as_seed() for i in part]
                engine.send({"prompts": [known[i] for i in part], "seeds": seeds, "sampling": sampling})
            found: dict[int, Scored] = {}
            for engine, part in zip(engines, parts, strict=True):
                for i, (tokens, nats) in zip(part, engine.receive()["replies"], strict=True):
                    found[i] = Scored(reply=reply_of(tokenizer, stops, tokens), tokens=tokens, nats=nats)
                tick(len(part) / max(1, len(known)))
            return [found.get(i) for i in range(len(prompts))]

        with ExitStack() as stack:
            engines = [stack.enter_context(self._engine(policy, k, devices)) for k, devices in enumerate(self._devices())]
            for engine in engines:
                engine.send(first)
            for engine in engines:
                engine.receive()
            yield draw

    def _first(self, policy: Policy) -> dict[str, Any]:
        """The first line that an engine gets: what it loads."""
        arguments: dict[str, Any] = {
            "model": str(policy.base), "skip_tokenizer_init": True, "load_format": "safetensors", "trust_remote_code": False,
            "dtype": precision.resolve(self.precision), "max_model_len": self.max_prompt_tokens + self.max_new_tokens,
            "tensor_parallel_size": self.tensor_parallel, "gpu_memory_utilization": self.memory_share,
            "enforce_eager": self.eager, "generation_config": "vllm", "seed": 0,
        }  # fmt: skip
        if not policy.is_adapter:
            return {"engine": arguments, "adapter": None}
        rank = read_object(policy.directory / "adapter_config.json")["r"]
        limit = next((known for known in RANKS if known >= rank), None)
        if limit is None:
            raise UserError(
                f"{policy.directory} is an adapter of rank {rank}, and vLLM loads up to {RANKS[-1]}. Train a smaller one."
            )
        arguments |= {"enable_lora": True, "max_loras": 1, "max_lora_rank": limit}
        return {"engine": arguments, "adapter": [f"policy-{policy.fingerprint[:16]}", str(policy.directory)]}

    def _engine(self, policy: Policy, number: int, devices: str | None) -> Any:
        command = [self.python or sys.executable, str(Path(__file__).parent / "engines/vllm_engine.py")]
        given = {} if devices is None else {"CUDA_VISIBLE_DEVICES": devices}
        return start(command, given, Path(self.log_dir) / f"{policy.fingerprint[:12]}-{os.getpid()}-{number}.log")

    def _devices(self) -> list[str | None]:
        """For each engine, the GPUs that it gets; None: there is no GPU."""
        import torch

        count = torch.cuda.device_count()
        if not count:
            return [None]
        names = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name] or [str(i) for i in range(count)]
        if ranks.world() > 1:
            names = [names[torch.cuda.current_device()]]  # as `ranks.join` has chosen it
        if len(names) < self.tensor_parallel:
            have = "1 GPU for this rank" if ranks.world() > 1 else f"{len(names)} GPU" + "s" * (len(names) > 1)
            raise UserError(f"sampler.tensor_parallel={self.tensor_parallel}: an engine needs so many GPUs, and there is {have}.")
        width = self.tensor_parallel
        return [",".join(names[low : low + width]) for low in range(0, len(names) - width + 1, width)]
