"""The trainings of tests/test_parallel.py, in float64: `python two_ranks.py RANK FOLDER MODEL` is one of two ranks; the test itself
is the only rank of the same trainings."""

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

from drift.engine import ranks  # noqa: E402
from drift.model import policy as policies  # noqa: E402
from drift.score import reference as passes  # noqa: E402
from drift.score.frozen_outputs import load_output  # noqa: E402
from drift.score.plan import make_plan, tokenize  # noqa: E402
from drift.store import Store  # noqa: E402
from drift.train import fit as training  # noqa: E402
from drift.train.frozen import num_frozen  # noqa: E402

CASES = {
    "lora": ["train=lora", "objective=[dpo,nll]"],
    "full": ["train=full", "train.gradient_checkpointing=true", "objective=[dpo,kto]", "train.optimizer=adamw"],
}
COMMON = ["train.precision=float32", "train.signal_every=2", "train.checkpoint_every_steps=4", "train.learning_rate=1e-3"]
ANSWERS = ("yes", "no, I think", "a much longer reply than all of the others are", "?")
EPOCHS = 2


def exact(patch):
    """Models in float64, and the reference's numbers. `patch(module, name, value)`."""
    load, make = policies.load_model, training.trainable
    patch(policies, "load_model", lambda *given, **how: float64_throughout(load(*given, **how)))
    patch(training, "trainable", lambda *given: make(*given).double())
    torch.set_default_dtype(torch.float64)


def plan_of(train, objectives, tokenizer):
    """Thirteen pairs in steps of three, four and one batches, which two ranks can't share evenly."""
    said = [(f"Question {i}?" * (1 + i % 3), f"{ANSWERS[i % 4]} {i}", ANSWERS[(i + 1) % 4]) for i in range(13)]
    pairs = [preference(*texts, record=str(i)) for i, texts in enumerate(said)]
    longest = train.max_tokens if any(one.mismatched for one in objectives.values()) else None
    how = {"examples_per_step": 5, "tokens_per_batch": 260, "example_order": "shuffled", "seed": 0, "longest_mismatched": longest}
    return make_plan(tokenize(tokenizer, pairs), layout=train.layout, **how)


def case(name, folder, model, strategy="ddp", resumed=None, store="store", **changed):
    """Reference pass and training in a folder, with what the test compares in found.json; `resumed`: another folder, from whose
    checkpoint the training goes on."""
    config = compose(*CASES[name], *COMMON)
    train = replace(instantiate(config.train), strategy=strategy, **changed)
    objectives, start = instantiate(config.objective, _convert_="all"), policies.policy_at(Path(model))
    planned = plan_of(train, objectives, policies.load_tokenizer(start))
    kept = Store(dir=str(folder.parent / store), strict=False, verify=False, lease_seconds=30.0, keep_policies="all")
    layers = num_frozen(train, start, planned)
    scored = passes.reference_stage(kept, train.compute, start, planned, layers=layers).path
    values = passes.Reference(**json.loads((scored / "reference.json").read_text()))
    progress, output = folder / "key.progress", folder / "output"
    output.mkdir(parents=True)
    copytree(resumed / "key.progress", progress) if resumed else progress.mkdir()
    heard = []
    what = (train, objectives, start, planned, values, scored / "frozen", progress, output, True, EPOCHS)
    ranks.everywhere(training.fit, *what, here={"on_step": lambda history: heard.append(len(history))})
    outputs = [load_output(scored / "frozen", i).tolist() for i in range(len(planned.passes))] if layers else []
    found = {"reference": asdict(values), "batches": [*map(len, planned.steps)], "heard": heard, "frozen": outputs}
    (folder / "found.json").write_text(json.dumps(found))


def main(number, folder, model):
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=number, world_size=2)
    exact(setattr)
    if number:
        ranks.serve()
        return
    for name in CASES:
        case(name, folder / f"{name} ddp", model, "ddp", store="two")
        case(name, folder / f"{name} fsdp", model, "fsdp", store="two")
    case("full", folder / "full resumed by ddp", model, "ddp", resumed=folder / "full alone", store="two")
    case("full", folder / "full resumed by fsdp", model, "fsdp", resumed=folder / "full alone", store="two", cpu_offload=True)
    ranks.dismiss()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
