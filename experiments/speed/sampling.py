"""Sampling: this project's decoding loop against the official script's way, interleaved, on the same prompts, model and settings.

    python experiments/speed/sampling.py [--samples 4]

The official way: `generate` of transformers, batches of 16 in file order, padded on the left, each sample as a prompt of its own.
Prompts are real first turns of ShareGPT. Each measurement is a process of its own; loading is not counted. New tokens include the
end of a reply, but nothing after it.
"""

import json
import resource
import tempfile
import time
from pathlib import Path

from side_by_side import arguments_of, compare, conversations, model_directory

TEMPERATURE, TOP_P, BATCH = 0.7, 0.9, 16  # the official script's


def main() -> None:
    parser = arguments_of(__doc__)
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--samples", type=int, default=1)
    parser.add_argument("--max-prompt", type=int, default=1024, help="tokens")
    parser.add_argument("--max-new-tokens", type=int, default=256)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(measure(**json.loads(arguments.child))))
        return
    directory = model_directory(arguments.model)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "prompts.json"
        file.write_text(json.dumps(real_prompts(directory, arguments.data, arguments.prompts, arguments.max_prompt)))
        common = {name: getattr(arguments, name) for name in ("precision", "samples", "max_new_tokens")}
        compare(
            __file__, common | {"model": str(directory), "prompts": str(file)}, ["ours", "generate"], arguments.repeats, "tokens"
        )


def real_prompts(directory: Path, data: str | None, count: int, max_prompt: int) -> list[str]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory)
    found: list[str] = []
    for turns in conversations(data):
        if len(found) < count and 5 <= len(tokenizer(turns[0]).input_ids) <= max_prompt - 40:
            found.append(turns[0])
    assert len(found) == count, f"only {len(found)} prompts of these lengths"
    return found


def measure(side: str, model: str, prompts: str, precision: str, samples: int, max_new_tokens: int) -> dict[str, float]:
    from drift.model.policy import policy_at
    from drift.randomness import Noise
    from drift.sampler.transformers import Transformers

    texts = [[{"role": "user", "content": text}] for text in json.loads(Path(prompts).read_text()) for _ in range(samples)]
    if side == "generate":
        tokens, seconds = generate(model, texts, precision, max_new_tokens)
    else:
        sampler = Transformers(
            temperature=TEMPERATURE, top_p=TOP_P, max_new_tokens=max_new_tokens, max_prompt_tokens=4096, group_size=len(texts),
            tokens_per_batch=32768, precision=precision,  # type: ignore[arg-type]
        )  # fmt: skip
        with sampler.open(policy_at(Path(model))) as draw:
            begun = time.monotonic()
            noise = [Noise(0, "speed", 0, str(i), 0) for i in range(len(texts))]
            replies = draw(texts, noise, lambda share: None)
            seconds = time.monotonic() - begun
            tokens = sum(reply.num_tokens for reply in replies if reply)
    return {"count": tokens, "seconds": seconds, "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}


def generate(model: str, texts: list[list[dict[str, str]]], precision: str, max_new_tokens: int) -> tuple[int, float]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model, padding_side="left")
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, precision)).eval()
    torch.manual_seed(0)
    tokens, begun = 0, time.monotonic()
    for low in range(0, len(texts), BATCH):
        batch = tokenizer.apply_chat_template(
            texts[low : low + BATCH], add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
        )
        with torch.inference_mode():
            out = loaded.generate(
                **batch, do_sample=True, temperature=TEMPERATURE, top_p=TOP_P, top_k=0, max_new_tokens=max_new_tokens
            )
        for reply in out[:, batch["input_ids"].shape[1] :].tolist():
            tokens += reply.index(tokenizer.eos_token_id) + 1 if tokenizer.eos_token_id in reply else len(reply)
    return tokens, time.monotonic() - begun


if __name__ == "__main__":
    main()
