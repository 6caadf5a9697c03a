"""Sampling with vLLM, where it is installed, at the shapes, prompts and number of new tokens of sampling.py. vLLM makes random
weights itself; a reply has no end, so that both draw the same number of tokens."""

import importlib.util
import os
import tempfile
import time
from collections.abc import Callable

from models import config_of, random_pairs, tokenizer
from sampling import NEW_TOKENS, PROMPTS, ROUNDS, TEMPERATURE, TOP_P


def measure(size: str, say: Callable) -> None:
    if importlib.util.find_spec("vllm") is None:
        say(skipped="vllm is not installed")
        return
    os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"  # models.py has asked for a GPU, which a forked process could not use then
    from vllm import LLM, SamplingParams  # type: ignore[import-not-found]

    from drift.model.chat import prompt_ids

    tiny = size == "tiny"
    rows = random_pairs(8 if tiny else PROMPTS, shrink=10 if tiny else 1)
    prompts = [{"prompt_token_ids": prompt_ids(tokenizer(), [{"role": "user", "content": row["prompt"]}])} for row in rows]
    how = SamplingParams(temperature=TEMPERATURE, top_p=TOP_P, max_tokens=NEW_TOKENS, ignore_eos=True, detokenize=False)
    config = config_of(size)
    config.architectures, config.dtype = ["Qwen2ForCausalLM"], "bfloat16"
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        begun = time.monotonic()
        engine = LLM(
            model=folder, load_format="dummy", skip_tokenizer_init=True, dtype="bfloat16", seed=0, max_model_len=4096,
            gpu_memory_utilization=0.85,
        )  # fmt: skip
        say(side="vLLM", kind="start", seconds=time.monotonic() - begun)
        for kind in ("warm-up", *["round"] * ROUNDS):
            begun = time.monotonic()
            replies = engine.generate(prompts, how, use_tqdm=False)
            seconds = time.monotonic() - begun
            count = sum(len(reply.outputs[0].token_ids) for reply in replies)
            say(side="vLLM", kind=kind, seconds=seconds, tokens_per_second=count / seconds)
