"""The decoding loop: a group of prompts in, sampled token ids out.

Unlike `generate` of transformers, it is given the noise (one uniform per reply and position, inverse CDF), so a reply does not
depend on its neighbours. A beginning that all prompts share (a system message), and a prompt with several samples, are computed
once. Finished replies leave the batch. Keys and values are written in place instead of being copied for every token.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from drift.sampler.choose import choose
from drift.sampler.cpu import bands
from drift.sampler.prefill import prefill


@dataclass(frozen=True, kw_only=True)
class SampleRequest:
    """One reply to sample: the prompt's token ids and `(max_new_tokens,)` uniforms."""

    prompt: Sequence[int]
    uniforms: Any


@torch.inference_mode()
def sample(
    model: Any,
    requests: Sequence[SampleRequest],
    *,
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    stop_ids: set[int],
    pad_id: int,
    on_token: Callable[[], None] = lambda: None,
    banded: bool | None = None,
    nats: list[list[float]] | None = None,
) -> list[list[int]]:
    """The token ids of one reply per request, including the stop token if one was sampled. `temperature` 0 is greedy. `banded`:
    decode without padding (see bands.py). None: only on a CPU, with a model that supports it, if a padded cache would be twice as
    large; its speed on a GPU has not been measured. `nats`: an empty list; it gets the log-probabilities of each reply's tokens."""
    prompts = [list(request.prompt) for request in requests]
    if banded is None:
        longest = max(map(len, prompts)) + max_new_tokens - 1  # a reply's last token is not fed to the model
        banded = bool(model.device.type == "cpu" and bands.supports(model, longest) and bands.saves(prompts))
    logits, state = prefill(model, prompts, max_new_tokens, pad_id, banded=banded)
    device = logits.device
    uniforms = torch.stack([torch.as_tensor(request.uniforms) for request in requests]).to(device)  # (B, max_new_tokens)
    stops = torch.tensor(sorted(stop_ids), device=device)
    replies: list[list[int]] = [[] for _ in requests]
    if nats is not None:
        nats += [[] for _ in requests]
    active = list(range(len(requests)))  # the unfinished replies, as indices into `requests`
    for position in range(max_new_tokens):
        tokens = choose(logits, uniforms[active, position], temperature, top_p)  # (B,)
        for i, token in zip(active, tokens.tolist(), strict=True):
            replies[i].append(token)
        if nats is not None:  # at temperature 1 and with the whole vocabulary
            logps = logits.float().log_softmax(dim=1).gather(1, tokens[:, None]).squeeze(1)
            for i, logp in zip(active, logps.tolist(), strict=True):
                nats[i].append(logp)
        keep = (~torch.isin(tokens, stops)).nonzero().squeeze(1)
        on_token()
        if len(keep) == 0 or position + 1 == max_new_tokens:
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
    """The places to keep, reordered so that as many replies as possible stay in place: the last ones fill the finished ones'
    places."""
    stay = keep[keep < len(keep)]
    places = torch.empty_like(keep)
    free = torch.ones(len(keep), dtype=torch.bool, device=keep.device)
    free[stay] = False
    places[stay] = stay
    places[free] = keep[len(stay) :]
    return places
