"""The signal of a step: gradients of single pairs, against numbers by hand and against the step's own gradient."""

import json
from pathlib import Path

import pytest
import torch
from conftest import SMALL, perform

from drift.records import read_jsonl
from drift.train import signal


def test_norms_of_three_gradients_by_hand():
    """(3, 4), (-3, 4) and (0, 1): norms 5, 5 and 1; their mean is (0, 3), of norm 3. Used twice in a loss, a weight
    counts once, as the sum of its gradients."""
    weight = torch.nn.Parameter(torch.zeros(2))
    losses = (weight @ torch.tensor(row) + weight @ torch.tensor(row) for row in ([1.5, 2.0], [-1.5, 2.0], [0.0, 0.5]))
    norms, together = signal.measure([weight], losses, lambda loss: loss.backward())
    assert norms == pytest.approx([5.0, 5.0, 1.0]) and together == pytest.approx(3.0)
    assert weight.grad is None and not weight._backward_hooks


WAYS = {
    "adapter over kept layers": [],
    "adapter, padded rows": ["train.layout=padded"],
    "all weights": ["train=full"],
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.slow
def test_the_norm_of_the_mean_is_the_steps_gradient_norm_and_measuring_changes_no_weight(way, cache, tmp_path):
    """Without an NLL term the preference part is all there is. A batch holds several pairs of a prompt, a step several batches."""
    found = {}
    for every in (0, 1):
        state = perform(
            tmp_path / str(every), *SMALL, *WAYS[way], f"model.cache_dir={cache}", f"store.dir={tmp_path}/store", "iterations=1",
            "data.num_prompts=8", "examples_per_iteration=12", "objective=[dpo]", "train.max_grad_norm=1e9",
            "train.examples_per_step=6",
            "train.example_order=by_prompt", "train.tokens_per_batch=900", "train.warmup_share=0", f"train.signal_every={every}",
            "train.precision=float32",
        )  # fmt: skip
        assert state["points"][1]["steps"] == 2
        found[every] = tmp_path / str(every) / "iteration_1"
    silent, measured = ([row for row in read_jsonl(found[every] / "steps.jsonl")] for every in (0, 1))
    assert all("dpo_norm" not in row for row in silent)
    for row in measured:
        assert row["dpo_norm"] == pytest.approx(row["grad_norm"], rel=1e-4) and row["dpo_pair_norm"] >= row["dpo_norm"]
    for row, other in zip(silent, measured, strict=True):
        assert row.items() <= other.items()
    assert weights(found[0]) == weights(found[1])


def weights(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (folder / "policy").glob("*.safetensors")}


@pytest.mark.slow
def test_the_report_shows_how_much_the_gradients_of_pairs_agree(cache, tmp_path):
    perform(
        tmp_path / "run", *SMALL, f"model.cache_dir={cache}", f"store.dir={tmp_path}/store", "iterations=2", "train.signal_every=2"
    )
    text = (tmp_path / "run" / "report.html").read_text()
    assert "norm of a pair&#39;s gradient" in text and "<td>2</td>" in text
    assert 'class="remark bad">not useful</span>' in text, "the sample browser says what was true of a reply"
    rows = [json.loads(line) for line in (tmp_path / "run/iteration_2/steps.jsonl").read_text().splitlines()]
    assert ["dpo_norm" in row for row in rows] == [True, False, True]
