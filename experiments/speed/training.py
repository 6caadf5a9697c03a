"""DPO training: this project against TRL's `DPOTrainer`, interleaved, on the same pairs, model, precision and optimiser.

    python experiments/speed/training.py                              ours against TRL's defaults (batch 4)
    python experiments/speed/training.py --tune                       TRL's best of batch x order x precomputed reference, once each
    python experiments/speed/training.py --peer batch=1,sorted=1,precomputed=1

One measurement is one epoch in a process of its own: the reference pass and the optimiser steps, without imports. Pairs have the
lengths of real ShareGPT conversations; every step takes four pairs on both sides. `--adapter` trains LoRA on the upper half of
the layers, on both sides the same modules. The share of a matrix product's rate is measured in the same process.
"""

import json
import tempfile
import time
from itertools import product
from pathlib import Path
from typing import Any

from arithmetic import matrix_product_rate, needed_flop
from side_by_side import arguments_of, as_examples, child, compare, composed, conversations, model_directory, report

LEARNING_RATE, BETA = 1e-6, 0.1
MAX_PROMPT, MAX_REPLY = 1024, 512
ADAPTER_SHARE = 0.5  # of the layers, from the top


def main() -> None:
    parser = arguments_of(__doc__)
    parser.add_argument("--pairs", type=int, default=32)
    parser.add_argument("--adapter", action="store_true")
    parser.add_argument("--examples-per-step", type=int, default=4)
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing, on both sides")
    parser.add_argument(
        "--slim",
        action="store_true",
        help="on both sides: bfloat16 weights and 8-bit AdamW, or with --adapter weights in four bits",
    )
    parser.add_argument("--tokens-per-batch", type=int, default=1400, help="ours; 1: one pair at a time")
    parser.add_argument("--peer", nargs="+", default=["batch=4,sorted=0,precomputed=0"])
    parser.add_argument("--tune", action="store_true")
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(measure(**json.loads(arguments.child))))
        return
    directory = model_directory(arguments.model)
    with tempfile.TemporaryDirectory() as folder:
        pairs = Path(folder) / "pairs.json"
        pairs.write_text(json.dumps(real_pairs(directory, arguments.data, arguments.pairs)))
        names = ("precision", "adapter", "slim", "tokens_per_batch", "examples_per_step", "checkpointing")
        common = {name: getattr(arguments, name) for name in names}
        common |= {"model": str(directory), "pairs": str(pairs)}
        if not arguments.tune:
            compare(__file__, common, ["ours", *arguments.peer], arguments.repeats, "pairs")
            return
        for batch, order, precomputed in product((1, 2, 4, 8), (0, 1), (0, 1)):
            side = f"batch={batch},sorted={order},precomputed={precomputed}"
            report(side, [child(__file__, common | {"side": side})], "pairs")


def real_pairs(directory: Path, data: str | None, count: int) -> list[dict[str, str]]:
    """The first exchange of random conversations; rejected is the same conversation's second reply (its length is real too)."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory)
    pairs: list[dict[str, str]] = []
    for turns in conversations(data):
        if len(turns) < 4 or len(pairs) == count:
            continue
        prompt, chosen, rejected = turns[0], turns[1], turns[3]
        sizes = [len(tokenizer(text).input_ids) for text in (prompt, chosen, rejected)]
        if min(sizes) >= 5 and sizes[0] <= MAX_PROMPT - 40 and max(sizes[1:]) < MAX_REPLY:
            pairs.append({"prompt": prompt, "chosen": chosen, "rejected": rejected})
    assert len(pairs) == count, f"only {len(pairs)} conversations of these lengths"
    return pairs


def tokenized(model: Path, data: list[dict[str, str]]) -> list[Any]:
    """These pairs as our training takes them."""
    from drift.model.policy import load_tokenizer, policy_at
    from drift.score.plan import tokenize

    return tokenize(load_tokenizer(policy_at(model)), as_examples(data))


def measure(side: str, model: str, pairs: str, precision: str, adapter: bool, **settings: Any) -> dict[str, float]:
    import torch

    from drift.store import peak_gib

    torch.manual_seed(0)
    data = json.loads(Path(pairs).read_text())
    rows = tokenized(Path(model), data)
    settings |= {"precision": precision, "adapter": adapter}
    if side == "ours":
        seconds = ours(Path(model), rows, **settings)
    else:
        seconds = trl(model, data, settings, **{name: int(value) for name, value in (part.split("=") for part in side.split(","))})
    lengths = [(len(pair.prompt), *(len(row.reply) for row in pair.sequences)) for pair in rows]
    return {
        "count": len(data),
        "seconds": seconds,
        "peak_gib": peak_gib(),
        "flop": needed_flop(json.loads((Path(model) / "config.json").read_text()), lengths, ADAPTER_SHARE if adapter else None),
        "flop_per_second": matrix_product_rate(precision),
    }


def ours(
    model: Path, rows: list[Any], *, precision: Any, adapter: bool, slim: bool, tokens_per_batch: int,
    examples_per_step: int, checkpointing: bool,
) -> float:  # fmt: skip
    import lightning  # noqa: F401
    import peft  # noqa: F401
    from hydra.utils import instantiate

    from drift.model.policy import policy_at
    from drift.objective.dpo import Dpo
    from drift.score.plan import make_plan
    from drift.score.reference import reference_stage
    from drift.store import Store
    from drift.train.fit import train_stage
    from drift.train.frozen import num_frozen

    train = instantiate(
        composed(
            f"train={'lora' if adapter else 'full'}",
            f"train.optimizer={'adamw_8bit' if slim and not adapter else 'adamw'}",
            f"train.parameters={'bfloat16' if slim and not adapter else 'float32'}",
            *([f"train.adapter.top_share={ADAPTER_SHARE}"] if adapter else []),
            *(["train.adapter.quantization=nf4"] if slim and adapter else []),
            f"train.learning_rate={LEARNING_RATE}",
            "train.warmup_share=0",
            f"train.examples_per_step={examples_per_step}",
            f"train.tokens_per_batch={tokens_per_batch}",
            f"train.gradient_checkpointing={checkpointing}",
            f"train.precision={precision}",
            "train.checkpoint_every_steps=1000000",
            "train.signal_every=0",  # TRL measures nothing of the kind
        ).train
    )
    start = policy_at(model, "nf4" if slim and adapter else "none")
    planned = make_plan(
        rows, layout=train.layout, examples_per_step=train.examples_per_step, tokens_per_batch=train.tokens_per_batch,
        example_order=train.example_order, seed=0, longest_mismatched=None,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        store = Store(dir=folder, strict=False, verify=False, lease_seconds=60.0, keep_policies="all")
        begun = time.monotonic()  # loading (under a second) and writing the policy are inside: a stage is what a user waits for
        scored = reference_stage(store, train.compute, start, planned, layers=num_frozen(train, start, planned))
        train_stage(
            store, train, {"dpo": Dpo(weight=1.0, beta=BETA)}, start, start, planned, scored, epochs=1, on_step=lambda history: None
        )
        return time.monotonic() - begun


def trl(model: str, data: list[dict[str, str]], settings: dict[str, Any], *, batch: int, sorted: int, precomputed: int) -> float:
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
    from trl import DPOConfig, DPOTrainer

    from drift.train.lora import Lora

    adapter, slim, low = settings["adapter"], settings["slim"], settings["precision"] == "bfloat16"

    rows = data
    if sorted:
        rows = list(data)
        rows.sort(key=lambda row: len(row["prompt"]) + max(len(row["chosen"]), len(row["rejected"])))
    dtype = torch.bfloat16 if low and (adapter or slim) else torch.float32  # as on our side: trained weights are float32
    four_bits = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )
    loaded = AutoModelForCausalLM.from_pretrained(
        model, dtype=dtype, **({"quantization_config": four_bits} if slim and adapter else {})
    )
    linear = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    layers = list(Lora(rank=16, scale=2.0, top_share=ADAPTER_SHARE, quantization="none").layers(loaded.config.num_hidden_layers))
    lora = LoraConfig(r=16, lora_alpha=32, target_modules=linear, layers_to_transform=layers, task_type="CAUSAL_LM")
    with tempfile.TemporaryDirectory() as folder:
        config = DPOConfig(
            output_dir=folder,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            use_cpu=not torch.cuda.is_available(),
            bf16=low,
            optim="adamw_bnb_8bit" if slim and not adapter else "adamw_torch",
            gradient_checkpointing=settings["checkpointing"],
            learning_rate=LEARNING_RATE,
            beta=BETA,
            max_length=None,
            num_train_epochs=1,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=max(1, settings["examples_per_step"] // batch),
            precompute_ref_log_probs=bool(precomputed),
            train_sampling_strategy="sequential" if sorted else "random",
        )
        dataset = Dataset.from_list(
            [{"prompt": [{"role": "user", "content": row["prompt"]}]}
             | {side: [{"role": "assistant", "content": row[side]}] for side in ("chosen", "rejected")} for row in rows]
        )  # fmt: skip
        begun = time.monotonic()  # TRL precomputes in the constructor, so that is inside (as is its tokenising: under a second)
        trainer = DPOTrainer(
            model=loaded,
            args=config,
            train_dataset=dataset,
            processing_class=AutoTokenizer.from_pretrained(model),
            peft_config=lora if adapter else None,
        )
        trainer.train()
        return time.monotonic() - begun


if __name__ == "__main__":
    main()
