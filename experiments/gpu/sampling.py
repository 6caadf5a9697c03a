"""Sampling: this project's decoding loop against `generate`, in one process, with the same random model and real prompt lengths."""

import random
import statistics
from collections.abc import Callable
from typing import Any

import torch
from models import DEVICE, peak_gib, random_model, random_pairs, reset_peak, synchronized_clock, tokenizer

TEMPERATURE, TOP_P = (
    0.08,
    0.9,
)  # logits of random weights lie close together: so their distribution is as peaked as a trained model's
ROUNDS = 2
PROMPTS, NEW_TOKENS, BATCHES = 64, 32, (16, 64)
TINY = (8, 8, (4,))


def measure(size: str, say: Callable) -> None:
    """Ours: all prompts at once, with the plain cache and with bands; `generate`: in batches of 16 (the official script's) and all
    at once, padded on the left."""
    prompts, new_tokens, batches = TINY if size == "tiny" else (PROMPTS, NEW_TOKENS, BATCHES)
    words, model = tokenizer(), random_model(size, torch.bfloat16 if DEVICE == "cuda" else torch.float32)
    rows = random_pairs(prompts, shrink=10 if size == "tiny" else 1)
    texts = [[{"role": "user", "content": row["prompt"]}] for row in rows]
    sides: dict[str, Callable[[int], int]] = {
        "ours, plain cache": lambda count: ours(model, words, texts, count, banded=False),
        "ours, bands": lambda count: ours(model, words, texts, count, banded=True),
    } | {f"generate, batch {size}": lambda count, size=size: generate(model, words, texts, count, size) for size in batches}
    rates: dict[str, list[float]] = {}
    for kind in ("warm-up", *["round"] * ROUNDS):
        for side, draw in sides.items():
            reset_peak()
            begun = synchronized_clock()
            tokens = draw(8 if kind == "warm-up" else new_tokens)
            seconds = synchronized_clock() - begun
            if kind == "round":
                rates.setdefault(side, []).append(tokens / seconds)
                say(side=side, kind=kind, seconds=seconds, tokens_per_second=tokens / seconds, peak_gib=peak_gib())
    for side in [side for side in rates if side.startswith("generate")]:
        for mine in ("ours, plain cache", "ours, bands"):
            speed = [a / b for a, b in zip(rates[mine], rates[side], strict=True)]
            say(ratio=f"{mine} / {side}", speed=statistics.median(speed), least=min(speed), most=max(speed))


def ours(model: Any, words: Any, texts: list[Any], new_tokens: int, *, banded: bool) -> int:
    """Tokens drawn."""
    from drift.model.chat import prompt_ids
    from drift.randomness import Noise
    from drift.sampler.decode import SampleRequest, sample

    rows = [
        SampleRequest(prompt=prompt_ids(words, text), uniforms=Noise(0, "speed", 0, str(i), 0).uniforms(new_tokens))
        for i, text in enumerate(texts)
    ]
    replies = sample(
        model,
        rows,
        max_new_tokens=new_tokens,
        temperature=TEMPERATURE,
        top_p=TOP_P,
        stop_ids={words.eos_token_id},
        pad_id=words.pad_token_id,
        banded=banded,
    )
    return sum(map(len, replies))


def generate(model: Any, words: Any, texts: list[Any], new_tokens: int, size: int) -> int:
    words.padding_side = "left"
    torch.manual_seed(0)
    tokens = 0
    texts = list(texts)
    random.Random(0).shuffle(texts)  # as they come, not sorted by length
    for low in range(0, len(texts), size):
        batch = words.apply_chat_template(
            texts[low : low + size], add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
        ).to(DEVICE)
        with torch.inference_mode():
            out = model.generate(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                do_sample=True,
                temperature=TEMPERATURE,
                top_p=TOP_P,
                top_k=0,
                max_new_tokens=new_tokens,
            )
        for reply in out[:, batch["input_ids"].shape[1] :].tolist():
            tokens += reply.index(words.eos_token_id) + 1 if words.eos_token_id in reply else len(reply)
    return tokens
