"""The same-policy check: what the sampler draws from is the policy that training sees.

Engines and servers go wrong silently: an adapter that was never loaded, the weights of the iteration before, another chat template.
So before the first reply of a policy is used, the sampler draws a few, and its own log-probabilities of their tokens are compared
with those that training computes from the policy's directory and our rendering of the prompts. A sampler without log-probabilities
draws greedily, and each token has to be training's likeliest.

Rounding makes a difference; its limits are measured (experiments/samplers/README.md). A new policy may differ from the one before
it by less than that. So the same replies are also scored under the policies that it could be mistaken for: if one of those fits
much better, it is what the sampler has."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from drift.engine.ask import Ask, render_replies
from drift.errors import UserError
from drift.identity import identity
from drift.model.policy import Policy, load_tokenizer
from drift.parts import Sampler
from drift.randomness import Noise
from drift.records import Prompt, digest
from drift.sampler.contracts import Scored, Scoring
from drift.score import greedy, reference
from drift.score.sequence import TokenSequence
from drift.store import Stage

VERSION = 1
TOLERANCE = 0.1  # nats per token
BETTER = 2.0  # another policy that fits this many times better is the one that was sampled from
NEW_TOKENS = 24
PROMPTS: list[list[dict[str, str]]] = [
    [{"role": "user", "content": "What is the difference between a lake and a pond?"}],
    [{"role": "user", "content": "Write two sentences about a day at the sea, without using the word sun."}],
    [
        {"role": "user", "content": "Name a fruit."},
        {"role": "assistant", "content": "A pear."},
        {"role": "user", "content": "No, one that is blue, please."},
    ],
    [{"role": "user", "content": "Summarise in one line: the meeting was moved from Monday to Thursday because of the holiday."}],
]


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """A reply of the sampler as token ids, and its log-probabilities of the first of them (in nats); of all but the end-of-turn
    token where it gives no more. Greedy replies have no `nats`: their tokens are the likeliest."""

    sequence: TokenSequence
    nats: Sequence[float]


def same_policy_stage(ask: Ask, others: Mapping[str, Policy]) -> Stage:
    """Compares sampler and training on `ask.policy`; raises `UserError` if they don't agree. `others`: the policies that it could
    be mistaken for, by name. The stage's facts: `found` and `caveats`, for the report; `apart`, `others`: nats per token."""
    different = {name: other for name, other in others.items() if other.fingerprint != ask.policy.fingerprint}
    sampler = _changed(ask.sampler, max_new_tokens=min(NEW_TOKENS, ask.sampler.max_new_tokens))
    compute = ask.compute

    def work(progress: Path, output: Path) -> dict[str, Any]:
        caveats = list(sampler.caveats) if isinstance(sampler, Scoring) else []
        drawn, apart = _draw(sampler, ask)
        if not drawn:
            found = "the sampler gives neither log-probabilities nor greedy replies, so it is not known whether it has this policy."
            return {"found": found, "caveats": caveats, "apart": None, "others": {}}
        own = apart(ask.policy)
        rest = {name: apart(other) for name, other in different.items()}
        tokens = sum(len(one.nats) or len(one.sequence.reply) for one in drawn)
        _need_same(ask, own, rest, f"over {tokens} tokens of {len(drawn)} replies")
        than = "".join(f", {value:.4f} from those of {name}" for name, value in rest.items())
        what = "the sampler's log-probabilities" if drawn[0].nats else "the sampler's greedy choices"
        found = f"{what} of {tokens} tokens are {own:.4f} nats per token from training's{than}."
        return {"found": found, "caveats": caveats, "apart": own, "others": rest}

    computed = [compute.lightning, compute.dtype, compute.layout, compute.tokens_per_batch]
    settings = {"sampler": identity(sampler), "compute": computed}
    inputs = {"policy": ask.policy.fingerprint, "others": digest([other.fingerprint for other in different.values()])}
    return ask.store.run("same_policy", work, version=VERSION, settings=settings, inputs=inputs)


def _draw(sampler: Sampler, ask: Ask) -> tuple[list[Sampled], Callable[[Policy], float]]:
    """A few replies of the sampler, and how far they are from a policy, in nats per token."""
    tokenizer = load_tokenizer(ask.policy)
    noise = [Noise(0, "same policy", 0, str(i), 0) for i in range(len(PROMPTS))]
    scored = sampler.draw_scored(ask.policy, PROMPTS, noise) if isinstance(sampler, Scoring) else None
    if scored is not None:
        drawn = _as_tokens(tokenizer, scored)
        sequences = [one.sequence for one in drawn]

        def apart(policy: Policy) -> float:
            found = reference.token_logprobs(ask.compute, policy, sequences, "same-policy check")
            return _mean(abs(p - q) for ps, one in zip(found, drawn, strict=True) for p, q in zip(ps, one.nats, strict=False))

        return drawn, apart
    if "temperature" not in {item.name for item in fields(sampler)}:  # type: ignore[arg-type]
        return [], lambda policy: math.nan
    drawn = _greedy(sampler, ask, tokenizer, noise)
    sequences = [one.sequence for one in drawn]
    return drawn, lambda policy: _mean(
        nats for shortfall in greedy.shortfalls(ask.compute, policy, sequences) for nats in shortfall
    )


def _greedy(sampler: Any, ask: Ask, tokenizer: Any, noise: Sequence[Noise]) -> list[Sampled]:
    """Its greedy replies. Raises `UserError` if its other ones are the same."""
    with _changed(sampler, temperature=0.0).open(ask.policy) as generate:
        replies = generate(PROMPTS, noise, lambda share: None)
    if sampler.temperature > 0:
        with sampler.open(ask.policy) as generate:
            again = generate(PROMPTS, noise, lambda share: None)
        if [one and one.text for one in again] == [one and one.text for one in replies]:
            raise UserError(
                f"sampler.temperature={sampler.temperature:g} changes nothing: the replies are the greedy ones. The server ignores "
                "the temperature (transformers serve does, unless it is told to sample: sampler.extra in docs/samplers.md)."
            )
    known = [(prompt, one) for prompt, one in zip(PROMPTS, replies, strict=True) if one is not None]
    rendered = render_replies(tokenizer, [(prompt, one.text, one.ended) for prompt, one in known])
    return [Sampled(sequence=sequence, nats=[]) for sequence in rendered.values()]


def _as_tokens(tokenizer: Any, scored: Sequence[Scored | None]) -> list[Sampled]:
    """The replies as token ids, under our rendering of the prompts. A reply that is known as text only, and whose text gives
    another number of tokens than the sampler counted, is left out."""
    known: list[tuple[Prompt, Scored]] = [(p, one) for p, one in zip(PROMPTS, scored, strict=True) if one is not None]
    rendered = render_replies(tokenizer, [(prompt, one.reply.text, one.reply.ended) for prompt, one in known])
    found = []
    for i, (_, one) in enumerate(known):
        if one.tokens is not None:
            sequence = _prompt_and(tokenizer, known[i][0], one.tokens)
        elif i in rendered and len(one.nats) in {len(rendered[i].reply), len(rendered[i].reply) - one.reply.ended}:
            sequence = rendered[i]
        else:
            continue
        found.append(Sampled(sequence=sequence, nats=one.nats))
    return found


def _prompt_and(tokenizer: Any, prompt: Prompt, reply: Sequence[int]) -> TokenSequence:
    from drift.model.chat import prompt_ids

    return TokenSequence(prompt=prompt_ids(tokenizer, prompt), reply=list(reply))


def _need_same(ask: Ask, own: float, others: Mapping[str, float], over: str) -> None:
    """Raises `UserError` if the distances (nats per token) say that the sampler has another policy."""
    name, nearest = min(others.items(), key=lambda item: item[1], default=("", math.inf))
    if own <= TOLERANCE and own <= BETTER * nearest:  # written so that NaN does not pass
        return
    fits = f" Its replies fit {name} ({nearest:.4f} nats): {name} is what it samples from." if nearest * BETTER < own else ""
    raise UserError(
        f"The sampler does not sample from the policy {ask.policy.directory}: {over}, it is {own:.4f} nats per token from what "
        f"training computes (rounding makes up to {TOLERANCE:g}).{fits} Check that it has loaded this policy and its adapter, and "
        "that a server renders prompts with the model's own chat template. Nothing was trained on its replies. Fix that and run "
        "the same command again."
    )


def _changed(sampler: Any, **settings: Any) -> Any:
    """The sampler with those of the settings that it has."""
    known = {item.name for item in fields(sampler)}
    return replace(sampler, **{name: value for name, value in settings.items() if name in known})


def _mean(values: Any) -> float:
    numbers = list(values)
    return math.fsum(numbers) / len(numbers) if numbers else math.nan
