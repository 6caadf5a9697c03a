"""The decoding loop: a group of prompts in, sampled token ids out.

Against `generate` of transformers: the noise is given (one uniform per row and position, inverse CDF), so a reply does not
depend on its neighbours; the beginning that all prompts share (a system message) and a prompt's several samples are
computed once; finished rows leave the batch; keys and values are written in place instead of being copied at every token.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from drift.sampler.choose import choose
from drift.sampler.cpu import bands
from drift.sampler.prefill import prefill


@dataclass(frozen=True, kw_only=True)
class Row:
    """One reply to sample: the prompt's token ids and `(max_new_tokens,)` uniforms."""

    prompt: Sequence[int]
    uniforms: Any


@torch.inference_mode()
def sample(
    model: Any,
    rows: Sequence[Row],
    *,
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    stop_ids: set[int],
    pad_id: int,
    on_token: Callable[[], None] = lambda: None,
    banded: bool | None = None,
) -> list[list[int]]:
    """Token ids of one reply per row, the stop token included where one was sampled. `temperature` 0 is greedy. `banded`: attention
    without padding (see bands.py; None: on a CPU, where the model is known to allow it and a padded cache would be twice as
    large; on a GPU nobody has measured it)."""
    prompts = [list(row.prompt) for row in rows]
    if banded is None:
        longest = max(map(len, prompts)) + max_new_tokens - 1  # of a reply's last token nothing is computed
        banded = bool(model.device.type == "cpu" and bands.supports(model, longest) and bands.saves(prompts))
    logits, state = prefill(model, prompts, max_new_tokens, pad_id, banded=banded)
    device = logits.device
    uniforms = torch.stack([torch.as_tensor(row.uniforms) for row in rows]).to(device)  # (B, max_new_tokens)
    stops = torch.tensor(sorted(stop_ids), device=device)
    replies: list[list[int]] = [[] for _ in rows]
    active = list(range(len(rows)))  # the rows still in the batch, as indices into `rows`
    for step in range(max_new_tokens):
        tokens = choose(logits, uniforms[active, step], temperature, top_p)  # (B,)
        for row, token in zip(active, tokens.tolist(), strict=True):
            replies[row].append(token)
        keep = (~torch.isin(tokens, stops)).nonzero().squeeze(1)
        on_token()
        if len(keep) == 0 or step + 1 == max_new_tokens:
            break
        if len(keep) < len(active):
            keep = _fill_holes(keep)
            moved = (keep != torch.arange(len(keep), device=device)).nonzero().squeeze(1)
            state.keep(keep, moved, keep[moved])
            tokens = tokens[keep]
            active = [active[i] for i in keep.tolist()]
        logits = state.step(tokens)
    return replies


def _fill_holes(keep: Any) -> Any:
    """The rows to keep, ascending, reordered so that all but the last stay where they are: those take the finished rows' places."""
    stay = keep[keep < len(keep)]
    places = torch.empty_like(keep)
    free = torch.ones(len(keep), dtype=torch.bool, device=keep.device)
    free[stay] = False
    places[stay] = stay
    places[free] = keep[len(stay) :]
    return places
