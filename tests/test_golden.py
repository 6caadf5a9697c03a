"""Golden trajectories: what two iterations on a fixed log put out, to the pair and the step, kept in `golden/trajectories.jsonl`.

Two kinds of model, adapter and full fine-tuning, DRIFT and SPIN; shared and padded rows must both come out as the file says. The
models hear and say ASCII alone, and no space, so that a sampled reply's text has the tokens that were sampled.
A difference that a change is meant to make is written down by `python tests/test_golden.py`, and explained where it is made.
"""

import json
import tempfile
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from conftest import compose, feedback_file, freeze_imports, write_model

from drift.records import read_jsonl

FILE = Path(__file__).parent / "golden" / "trajectories.jsonl"
CASES = ["-".join(case) for case in product(("llama", "qwen2"), ("lora", "full"), ("drift", "spin"))]
COMMON = [
    "model=pretrained", "data=jsonl", "seed=5", "iterations=2", "examples_per_iteration=4", "train.examples_per_step=2",
    "train.tokens_per_batch=300", "train.precision=float32", "train.warmup_share=0.5", "train.gradient_checkpointing=false",
    "sampler.precision=float32", "sampler.temperature=1", "sampler.max_new_tokens=12", "sampler.group_size=4",
    "filters.truncated=keep", "evaluation.heldout.share=0.4", "evaluation.heldout.num_sampled_prompts=0",
]  # fmt: skip
CHANGES = {
    "lora": ["train=lora", "train.adapter.rank=4", "train.learning_rate=5e-3"],
    "full": ["train=full", "train.learning_rate=1e-4"],
    "drift": ["method=drift"],
    "spin": ["method=spin"],
}
OF_A_STEP = ("loss", "dpo", "margin", "logp_chosen", "entropy", "grad_norm")


def prepared(folder):
    """The log and both models in a folder."""
    write_log(folder / "log.jsonl")
    for kind in ("llama", "qwen2"):
        write_model(kind, ascii_first(), folder / kind, spoken=95)
    return folder


def ascii_first():
    """A tokenizer of bytes whose first 95 tokens are the characters of ASCII that can be seen and the end of turn."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    seen = [*map(chr, range(33, 127))]
    tokens = [*seen, "<end>", *sorted(set(pre_tokenizers.ByteLevel.alphabet()) - set(seen))]
    inner = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([AddedToken("<end>", special=True, normalized=False)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>", pad_token="<end>")
    tokenizer.chat_template = (
        "{% for message in messages %}{{ message['role'] + ':' + message['content'] + '<end>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
    )
    return tokenizer


def write_log(path):
    """Complaints, praise, and complaints with a better second reply, without a space."""
    feedback_file(path, dsat=9, sat=9)
    both = [
        {
            "prompt": [{"role": "user", "content": f"Riddle {i}?"}],
            "rejected": [{"role": "assistant", "content": f"No idea, {i}."}],
            "user_preference": {"content": "Try harder."},
            "chosen": [{"role": "assistant", "content": f"It is a shadow {i}."}],
        }
        for i in range(6)
    ]
    rows = [*read_jsonl(path), *both]
    path.write_text("".join(json.dumps(row, separators=(",", ":")).replace(" ", "-") + "\n" for row in rows))


def composed(case, folder):
    """The run of a case, on shared rows."""
    from drift.config import build

    kind, train, method = case.split("-")
    places = [f"model.path={folder}/{kind}", f"data.path={folder}/log.jsonl", f"store.dir={folder}/store"]
    return build(compose(*COMMON, *CHANGES[train], *CHANGES[method], *places))


def trajectory(run, place):
    """What a run puts out, row by row: the start model's scores, then every iteration's pairs, steps and scores."""
    from drift.journal import Journal
    from drift.loop import execute

    place.mkdir()
    execute(run, Journal(place, {"method": "golden", "seed": "0"}, {}, run.store, run.logger, run.alarms))
    freeze_imports("of a run")

    found = []
    for iteration in (0, 1, 2):
        if iteration:
            found += [{"pair": shown(row)} for row in read_jsonl(place / f"iteration_{iteration}/examples.jsonl")]
            found += [{name: row[name] for name in OF_A_STEP} for row in read_jsonl(place / f"iteration_{iteration}/steps.jsonl")]
        metrics = json.loads((place / f"iteration_{iteration}/heldout/scores.json").read_text())["metrics"]
        found.append({name: content["value"] for name, content in metrics.items()})
    return found


def shown(example):
    """The last words of the prompt, the chosen reply, the rejected one."""
    assert [reply["good"] for reply in example["replies"]] == [True, False]
    sides = [reply["text"] + ("<end>" if reply["ended"] else "") for reply in example["replies"]]
    return [example["prompt"][-1]["content"], *sides]


def written_down():
    """Case -> its rows, without their case."""
    found = {}
    for row in read_jsonl(FILE):
        found.setdefault(row.pop("case"), []).append(row)
    return found


def assert_same(found, expected):
    """Equal texts; of the numbers that are expected, each within 1e-4 of itself, or 1e-4 (scores) and 1e-5 (steps) where it is
    small: about what layouts and processors differ by, a score being the difference of sums of a hundred nats."""
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        if "pair" in other:
            assert one == other
        else:
            assert {name: one[name] for name in other} == pytest.approx(other, rel=1e-4, abs=1e-5 if "loss" in other else 1e-4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return prepared(tmp_path_factory.mktemp("golden"))


@pytest.mark.parametrize("case", CASES)
def test_two_iterations_give_the_stored_numbers(case, folder):
    run = composed(case, folder)
    shared = trajectory(run, folder / f"{case}-shared")
    padded = trajectory(replace(run, train=replace(run.train, layout="padded")), folder / f"{case}-padded")
    assert_same(shared, written_down()[case])
    assert_same(padded, written_down()[case])
    assert_same(padded, shared)


def write_down():
    """Writes the file anew, from shared rows."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = prepared(Path(scratch))
        rows = [
            {"case": case} | {name: rounded(value) for name, value in row.items()}
            for case in CASES
            for row in trajectory(composed(case, folder), folder / case)
        ]
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def rounded(value):
    """Seven digits, all that float32 has."""
    return float(f"{value:.7g}") if isinstance(value, float) else value


if __name__ == "__main__":
    write_down()
