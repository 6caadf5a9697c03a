"""The trainings of tests/test_parallel.py, in float64: `python two_ranks.py RANK FOLDER MODEL` is one of two ranks; the test itself is
the only rank of the same trainings."""

import json
import os
import sys
from dataclasses import asdict, replace
from pathlib import Path
from shutil import copytree

os.environ["OMP_NUM_THREADS"] = "1"

import torch  # noqa: E402
from conftest import compose, float64_throughout, preference  # noqa: E402
from hydra.utils import instantiate  # noqa: E402

from drift.engine.ranks import everywhere  # noqa: E402
from drift.model import policy as policies  # noqa: E402
from drift.score import reference as passes  # noqa: E402
from drift.score.plan import make_plan, tokenize  # noqa: E402
from drift.store import Store  # noqa: E402
from drift.train import fit as training  # noqa: E402
from drift.train.frozen import num_frozen  # noqa: E402

COMMON = ["train.precision=float32", "train.signal_every=2", "train.checkpoint_every_steps=4", "train.learning_rate=1e-3"]
CASES = {
    "lora": ["train=lora", "objective=[dpo,nll]"],
    "full": ["train=full", "train.gradient_checkpointing=true", "objective=[dpo,kto]", "train.optimizer=adamw"],
    "padded": ["train=full", "train.gradient_checkpointing=false", "train.layout=padded", "objective=[ipo]"],
}
ANSWERS = ("yes", "no, I think", "a much longer reply than all of the others are", "?")
EPOCHS = 2


def exact(patch):
    """Models in float64, and the reference's numbers. `patch(module, name, value)`."""
    load, make = policies.load_model, training.trainable
    patch(policies, "load_model", lambda *given, **how: float64_throughout(load(*given, **how)))
    patch(training, "trainable", lambda *given: make(*given).double())
    torch.set_default_dtype(torch.float64)


def plan_of(train, objectives, tokenizer):
    """Thirteen pairs in steps of five, five and three, with up to three batches of 260 tokens in a step: neither divides by two."""
    pairs = [preference(f"Question {i}?" * (1 + i % 3), f"{ANSWERS[i % 4]} {i}", ANSWERS[(i + 1) % 4], record=str(i)) for i in range(13)]
    longest = train.max_tokens if any(one.mismatched for one in objectives.values()) else None
    how = {"examples_per_step": 5, "tokens_per_batch": 260, "example_order": "shuffled", "seed": 0, "longest_mismatched": longest}
    return make_plan(tokenize(tokenizer, pairs), layout=train.layout, **how)


def case(name, folder, model, strategy="ddp", resumed=None, **changed):
    """Reference pass and training in a folder; `resumed`: another one, whose checkpoint this training goes on from."""
    config = compose(*CASES[name], *COMMON)
    train = replace(instantiate(config.train), strategy=strategy, **changed)
    objectives, start = instantiate(config.objective, _convert_="all"), policies.policy_at(Path(model))
    planned = plan_of(train, objectives, policies.load_tokenizer(start))
    store = Store(dir=str(folder / "store"), strict=False, verify=False, lease_seconds=30.0, keep_policies="all")
    layers = num_frozen(train, start, planned)
    scored = passes.reference_stage(store, train.compute, start, planned, layers=layers).path
    values = passes.Reference(**json.loads((scored / "reference.json").read_text()))
    progress, output = folder / "key.progress", folder / "output"
    output.mkdir()
    copytree(resumed / "key.progress", progress) if resumed else progress.mkdir()
    heard = []
    what = (train, objectives, start, planned, values, scored / "frozen", progress, output, True, EPOCHS)
    everywhere(training.fit, *what, here={"on_step": lambda history: heard.append(len(history))})
    outputs = [passes_output(scored / "frozen", i) for i in range(len(planned.passes))] if layers else []
    found = {"reference": asdict(values), "batches": [*map(len, planned.steps)], "heard": heard, "frozen": outputs}
    (folder / "found.json").write_text(json.dumps(found))


def passes_output(folder, number):
    from drift.score.frozen_outputs import load_output

    return load_output(folder, number).sum(dim=1).tolist()



def main(number, folder, model):
    from drift.engine import ranks

    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=number, world_size=2)
    exact(setattr)
    if number:
        ranks.serve()
        return
    for name in CASES:
        for strategy in ("ddp", "fsdp"):
            case(name, made(folder / f"{name}-{strategy}"), model, strategy)
    for strategy in ("ddp", "fsdp"):
        case("full", made(folder / f"resumed-{strategy}"), model, strategy, resumed=folder / "alone")
    ranks.dismiss()


def made(folder):
    folder.mkdir()
    return folder


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
