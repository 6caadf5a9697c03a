"""Measures the stages of one iteration on random weights, and lays the planner's estimate beside them.

    OMP_NUM_THREADS=1 python experiments/plan/check.py --size 30M            about 2 minutes
    OMP_NUM_THREADS=1 python experiments/plan/check.py --size 0.5B           about 20 minutes and 8 GB of memory

Every stage runs in a process of its own: its peak is the process's high-water mark above what it had after all imports, its time
the seconds of the CPU. The rates are those of `drift calibrate`, which must have been run with the same number of threads. Random
weights find all tokens about equally likely: top_p would have to go through the whole vocabulary, which it never does for a
trained model, so it is off here."""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

SIZES = {
    "30M": {"hidden_size": 384, "num_hidden_layers": 8, "num_attention_heads": 6, "num_key_value_heads": 2,
            "intermediate_size": 1024, "vocab_size": 49152},
    "0.5B": {"hidden_size": 896, "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2,
             "intermediate_size": 4864, "vocab_size": 151936},
}  # fmt: skip
WAYS = {"lora": ["train=lora"], "full": ["train=full", "train.gradient_checkpointing=false", "train.signal_every=0"]}
EXAMPLES, PER_STEP, PROMPT, REPLY, DRAWN, NEW, TOKENS = 20, 10, 96, 48, 24, 24, 1024
STAGES = ("sampling", "reference", "training")


def settings(folder: Path, way: str) -> list[str]:
    return [
        "model=pretrained", f"model.path={folder}/model", *WAYS[way], f"store.dir={folder}/store-{way}",
        f"examples_per_iteration={EXAMPLES}", f"train.examples_per_step={PER_STEP}", f"train.tokens_per_batch={TOKENS}",
        f"train.max_tokens={PROMPT + REPLY}", f"sampler.max_new_tokens={NEW}", "sampler.top_p=1",
        "train.checkpoint_every_steps=1000",
    ]  # fmt: skip


def make_model(folder: Path, size: str) -> None:
    """Random weights in bfloat16, as models are published, with the tokenizer of the tiny model."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from drift.model.policy import load_tokenizer, policy_at
    from drift.model.tiny import Tiny

    tiny = Tiny(layers=2, hidden_size=32, weights_seed=0, cache_dir=str(folder / "cache"), template={}).directory()
    tokenizer = load_tokenizer(policy_at(tiny))
    torch.manual_seed(0)
    end = tokenizer.eos_token_id
    config = Qwen2Config(**SIZES[size], tie_word_embeddings=True, eos_token_id=end, pad_token_id=end, bos_token_id=None)
    Qwen2ForCausalLM(config).bfloat16().save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")


def plan_of(run, vocabulary: int):
    """The batches of examples of random tokens."""
    import torch

    from drift.score.plan import TokenisedExample, make_plan
    from drift.score.sequence import TokenSequence

    ids = torch.randint(vocabulary, (EXAMPLES, PROMPT + 2 * REPLY), generator=torch.Generator().manual_seed(1)).tolist()
    examples = [
        TokenisedExample(
            sequences=[TokenSequence(prompt=row[:PROMPT], reply=row[low : low + REPLY]) for low in (PROMPT, PROMPT + REPLY)],
            good=[True, False],
        )
        for row in ids
    ]
    return make_plan(
        examples, layout=run.train.layout, examples_per_step=PER_STEP, tokens_per_batch=TOKENS, example_order="shuffled", seed=0,
        longest_mismatched=None,
    )  # fmt: skip


def child(folder: Path, size: str, way: str, stage: str) -> None:
    """Runs one stage; prints its peak above the start in bytes, and its CPU seconds, as JSON."""
    import drift.train.checkpoint  # noqa: F401
    import drift.train.modules  # noqa: F401
    from drift.compose import compose
    from drift.config import build
    from drift.model.chat import prompt_ids
    from drift.model.policy import load_tokenizer, policy_at
    from drift.randomness import Noise
    from drift.sampler import decode  # noqa: F401
    from drift.score.reference import reference_stage
    from drift.train.fit import train_stage
    from drift.train.frozen import num_frozen

    run = build(compose(settings(folder, way)))
    import_everything(run)
    start = policy_at(run.model.directory())
    plan = plan_of(run, SIZES[size]["vocab_size"])
    scoring = {"layers": num_frozen(run.train, start, plan)}
    around = len(prompt_ids(load_tokenizer(start), [{"role": "user", "content": "a"}])) - 1
    prompts = [[{"role": "user", "content": chr(97 + i) * (PROMPT - around)}] for i in range(DRAWN)]
    if stage == "training":
        scored = reference_stage(run.store, run.train.compute, start, plan, **scoring)
    before, begun = memory("VmRSS"), time.process_time()
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew
    if stage == "sampling":
        with run.sampler.open(start) as generate:
            generate(prompts, [Noise(0, "check", 0, str(i), 0) for i in range(DRAWN)], lambda share: None)
    elif stage == "reference":
        reference_stage(run.store, run.train.compute, start, plan, **scoring)
    else:
        train_stage(run.store, run.train, run.objective, start, start, plan, scored, epochs=1, on_step=lambda steps: None)
    print(json.dumps({"peak": memory("VmHWM") - before, "seconds": time.process_time() - begun}))


def import_everything(run) -> None:
    """What is imported only when it is used: peft, the model's code, a Trainer."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from drift.score.trainer import make_trainer
    from drift.train.lora import Lora

    config = Qwen2Config(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1, intermediate_size=16)
    Lora(rank=1, scale=1.0, top_share=1.0, quantization="none").attach(Qwen2ForCausalLM(config))
    make_trainer(run.train.compute.lightning)
    torch.optim.RMSprop([torch.zeros(1, requires_grad=True)])


def memory(name: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def estimate(folder: Path, way: str) -> dict[str, tuple[int, float]]:
    """Stage -> (peak in bytes, seconds), for the lengths of this check."""
    from dataclasses import replace

    from drift.compose import compose
    from drift.config import build
    from drift.model.architecture import config_of
    from drift.plan import forecast, memory, work
    from drift.plan.device import device_at_hand
    from drift.plan.rates import kept_file, rates_for
    from drift.plan.shape import shape_of

    run = build(compose(settings(folder, way)))
    shape, device = shape_of(config_of(folder / "model")), device_at_hand()
    kind = forecast.precision.resolve("auto")
    rates = rates_for(kind, "cpu", device.place, kept_file())
    assert rates.source == "measured", "run `drift calibrate` first, with the same number of threads"
    loaded, _ = forecast.workload(run)
    loaded = replace(
        loaded,
        prompt_tokens=PROMPT,
        reply_tokens=REPLY,
        samples=DRAWN,
        sample_prompt_tokens=PROMPT,
        sample_tokens=NEW,
        batches=loaded.steps * forecast.batches_of(run.train, PROMPT, REPLY, loaded.replies),
    )
    setup = forecast.setup_of(run.train, shape, "cpu", loaded, 1)
    batch = forecast.largest_batch(run.train, setup, loaded)
    drawn = {"replies": DRAWN, "prompt_tokens": PROMPT, "new_tokens": NEW, "bytes_each": forecast.BYTES[kind]}
    peaks = {
        "sampling": memory.sampling(shape, setup, **drawn), "reference": memory.reference(shape, setup, batch),
        "training": memory.training(shape, setup, batch),
    }  # fmt: skip
    seconds = work.seconds(shape, setup, loaded, rates, adapted=False)
    for stage, parts in peaks.items():
        print(f"  {way} {stage}: " + ", ".join(f"{name} {size / 2**20:.0f} MiB" for name, size in parts.items()))
    return {stage: (memory.total(parts), seconds[stage]) for stage, parts in peaks.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="30M")
    parser.add_argument("--folder", type=Path, default=Path("outputs/plan-check"))
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--ways", default="lora,full")
    parser.add_argument("--child", nargs=2, metavar=("WAY", "STAGE"))
    given = parser.parse_args()
    folder = given.folder / given.size
    if given.child:
        return child(folder, given.size, *given.child)
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "model").is_dir():
        make_model(folder, given.size)
    print(f"{'':<20} {'peak MiB':>9} {'planned':>9} {'off':>6}   {'CPU s':>7} {'planned':>8} {'off':>6}")
    for way in given.ways.split(","):
        planned = estimate(folder, way)
        for stage in STAGES:
            found = []
            for _ in range(given.times):
                shutil.rmtree(folder / f"store-{way}" / {"training": "train"}.get(stage, stage), ignore_errors=True)
                command = [sys.executable, __file__, "--size", given.size, "--folder", str(given.folder), "--child", way, stage]
                done = subprocess.run(command, capture_output=True, text=True)
                if done.returncode:
                    sys.exit(done.stdout + done.stderr)
                found.append(json.loads(done.stdout.splitlines()[-1]))
            peak, seconds = (statistics.median(one[name] for one in found) for name in ("peak", "seconds"))
            told, expected = planned[stage]
            print(
                f"{way + ' ' + stage:<20} {peak / 2**20:>9.0f} {told / 2**20:>9.0f} {told / peak - 1:>+6.0%}   "
                f"{seconds:>7.1f} {expected:>8.1f} {expected / seconds - 1:>+6.0%}",
                flush=True,
            )


if __name__ == "__main__":
    main()
