"""The same-policy check: what the sampler draws from is the policy that training sees.

Engines and servers go wrong silently: an adapter that was never loaded, the weights of the iteration before, another chat template.
So before the first reply of a policy is used, the sampler draws a few, and its own log-probabilities of their tokens are compared
with those that training computes from the policy's directory and our rendering of the prompts. A sampler without log-probabilities
draws greedily, and each token has to be training's likeliest.

Rounding makes a difference; its limits are measured (experiments/samplers/README.md). A new policy may differ from the one before
it by less than that. So the same tokens are also scored under the policies that it could be mistaken for: rounding is unrelated to
the difference between two policies, so even a small one tells which of them the sampler is nearer to (`share`)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Protocol

from drift.engine.rendered import render_replies
from drift.errors import UserError
from drift.identity import identity
from drift.model.policy import Policy, load_tokenizer
from drift.randomness import Noise
from drift.records import Prompt, Reply, digest
from drift.sampler.contracts import Scored, Scoring
from drift.score import greedy, reference
from drift.score.sequence import Compute, TokenSequence
from drift.store import Stage, Store

VERSION = 1
TOLERANCE = 0.06  # nats per token, on average; bfloat16 makes 0.02 to 0.03, seldom more (`_rounding`)
EXACT = 0.001  # nats per token: so near that a mistake would not matter
FLOOR = 0.01  # of greedy replies, nats per token: less is a choice between equals
SURE = 3.0  # standard errors
NEW_TOKENS, PROMPT_TOKENS = 16, 512
PROMPTS: list[list[dict[str, str]]] = [
    [{"role": "user", "content": "What is the difference between a lake and a pond?"}],
    [{"role": "user", "content": "Write two sentences about a day at the sea, without using the word sun."}],
    [
        {"role": "user", "content": "Name a fruit."},
        {"role": "assistant", "content": "A pear."},
        {"role": "user", "content": "No, one that is blue, please."},
    ],
    [{"role": "user", "content": "How do I keep bread fresh for longer?"}],
    [{"role": "user", "content": "List three things that are heavier than a car."}],
    [{"role": "user", "content": "Summarise in one line: the meeting was moved from Monday to Thursday because of the holiday."}],
]


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """A reply of the sampler as token ids, and its log-probabilities of the first of them (in nats); of all but the end-of-turn
    token where it gives no more. Greedy replies have no `nats`: their tokens are the likeliest."""

    sequence: TokenSequence
    nats: Sequence[float]


class Asking(Protocol):
    """What is needed of `drift.engine.ask.Ask`."""

    sampler: Any
    compute: Compute
    store: Store
    policy: Policy


_compared = set[str]()  # the samplers, with their policies, that this process has compared


def same_policy_stage(ask: Asking, others: Mapping[str, Policy]) -> Stage:
    """Compares sampler and training on `ask.policy`; raises `UserError` if they don't agree. `others`: the policies that it could
    be mistaken for, by name. The stage's facts: `found` and `caveats`, for the report; `apart`, `others`: nats per token."""
    once = {other.fingerprint: name for name, other in reversed(list(others.items()))}
    different = {name: others[name] for fingerprint, name in once.items() if fingerprint != ask.policy.fingerprint}
    sampler = _as_checked(ask.sampler)
    compute = ask.compute

    def work(progress: Path, output: Path) -> dict[str, Any]:
        caveats = list(sampler.caveats) if isinstance(sampler, Scoring) else []
        drawn = _draw(sampler, ask)
        if not drawn:
            found = "no reply of the sampler could be compared with training, so it is not known whether it has this policy."
            return {"found": found, "caveats": caveats, "apart": None, "others": {}}
        own = _distances(ask, drawn, ask.policy)
        near = _mean_size(own) < EXACT
        rest = {} if near else {name: _distances(ask, drawn, other) for name, other in different.items()}
        apart = {name: _mean_size(distances) for name, distances in rest.items()}
        _need_same(ask, drawn, own, rest)
        vague = {name: " (too little to tell them apart)" for name, other in rest.items() if drawn[0].nats and _vague(own, other)}
        than = "".join(f", {value:.4f} from those of {name}{vague.get(name, '')}" for name, value in apart.items())
        _compared.add(_name(sampler, ask))
        what = "log-probabilities" if drawn[0].nats else "greedy choices"
        found = f"the sampler's {what} of {len(own)} tokens are {_mean_size(own):.4f} nats per token from training's{than}."
        return {"found": found, "caveats": caveats, "apart": _mean_size(own), "others": apart}

    computed = [compute.lightning, compute.dtype, compute.layout, compute.tokens_per_batch]
    settings = {"sampler": identity(sampler), "compute": computed}
    inputs = {"policy": ask.policy.fingerprint, "others": digest([other.fingerprint for other in different.values()])}
    return ask.store.run("same_policy", work, version=VERSION, settings=settings, inputs=inputs)


def compare_again(ask: Asking) -> None:
    """Raises `UserError` if a server no longer has the policy, unless this process has compared them: the stage is about the time
    when it was made. Only the distance counts here."""
    sampler = _as_checked(ask.sampler)
    if (name := _name(sampler, ask)) not in _compared:
        if drawn := _draw(sampler, ask):
            _need_same(ask, drawn, _distances(ask, drawn, ask.policy), {})
        _compared.add(name)


def _name(sampler: Any, ask: Asking) -> str:
    """Of the sampler with the policy, at any temperature."""
    return digest([identity(_changed(sampler, temperature=0.0, top_p=1.0)), ask.policy.fingerprint])


def share(own: Sequence[float], other: Sequence[float]) -> tuple[float, float]:
    """How far the sampler is on the way from the policy (0) to another one (1), with its standard error, by least squares. `own`,
    `other`: for every token, the sampler's log-probability minus the policy's, and minus the other one's. Between policies that
    differ by rounding alone it is a half: all three are equally far apart."""
    steps = [mine - its for mine, its in zip(own, other, strict=True)]  # from the policy to the other one
    size = math.fsum(step * step for step in steps)
    if size == 0:
        return 0.0, math.inf
    way = math.fsum(mine * step for mine, step in zip(own, steps, strict=True)) / size
    rest = math.fsum((mine - way * step) ** 2 for mine, step in zip(own, steps, strict=True))
    return way, math.sqrt(rest / len(own) / size)


def _distances(ask: Asking, drawn: Sequence[Sampled], policy: Policy) -> list[float]:
    """For every token, the sampler's log-probability minus training's under this policy, in nats; of greedy replies, what the token
    lacks to the likeliest one, without the worst reply (its text may be made of other tokens than the sampler's)."""
    sequences = [one.sequence for one in drawn]
    if not drawn[0].nats:
        found = sorted(greedy.shortfalls(ask.compute, policy, sequences), key=_mean_size)
        return [nats for one in found[: max(1, len(found) - 1)] for nats in one]
    training = reference.token_logprobs(ask.compute, policy, sequences, "same-policy check")
    return [own - its for one, known in zip(drawn, training, strict=True) for own, its in zip(one.nats, known, strict=False)]


def _draw(sampler: Any, ask: Asking) -> list[Sampled]:
    """A few replies of the sampler; greedy ones, if it has no log-probabilities; none, if it can't draw greedily."""
    tokenizer, drawn = load_tokenizer(ask.policy), _replies(sampler, ask.policy)
    if any(isinstance(one, Scored) and one.nats for one in drawn):
        return _as_tokens(tokenizer, drawn)
    return _greedy(sampler, ask, tokenizer, drawn) if "temperature" in {item.name for item in fields(sampler)} else []


def _replies(sampler: Any, policy: Policy) -> Sequence[Scored | Reply | None]:
    noise = [Noise(0, "same policy", 0, str(i), 0) for i in range(len(PROMPTS))]
    if isinstance(sampler, Scoring):
        return sampler.draw_scored(policy, PROMPTS, noise)
    with sampler.open(policy) as generate:
        return generate(PROMPTS, noise, lambda share: None)


def _greedy(sampler: Any, ask: Asking, tokenizer: Any, drawn: Sequence[Scored | Reply | None]) -> list[Sampled]:
    """Its greedy replies. Raises `UserError` if the ones that were `drawn` are the same."""
    replies = [_reply(one) for one in _replies(_changed(sampler, temperature=0.0), ask.policy)]
    if sampler.temperature > 0 and [_reply(one) for one in drawn] == replies:
        raise UserError(
            f"sampler.temperature={sampler.temperature:g} changes nothing: the replies are the greedy ones. The server ignores "
            "the temperature (transformers serve does, unless generation_config.json beside the model says do_sample: true)."
        )
    known = [(prompt, one) for prompt, one in zip(PROMPTS, replies, strict=True) if one is not None]
    rendered = render_replies(tokenizer, [(prompt, one.text, one.ended) for prompt, one in known])
    return [Sampled(sequence=sequence, nats=[]) for sequence in rendered.values()]


def _reply(drawn: Scored | Reply | None) -> Reply | None:
    return drawn.reply if isinstance(drawn, Scored) else drawn


def _as_tokens(tokenizer: Any, scored: Sequence[Any]) -> list[Sampled]:
    """The replies as token ids, under our rendering of the prompts. A reply that is known as text only, and whose text gives
    another number of tokens than the sampler counted, is left out."""
    known: list[tuple[Prompt, Scored]] = [(p, one) for p, one in zip(PROMPTS, scored, strict=True) if one and one.nats]
    rendered = render_replies(tokenizer, [(prompt, one.reply.text, one.reply.ended) for prompt, one in known])
    found = []
    for i, (prompt, one) in enumerate(known):
        nats = one.nats or []
        if one.tokens is not None:
            found.append(Sampled(sequence=_prompt_and(tokenizer, prompt, one.tokens), nats=nats))
        elif i in rendered and len(nats) in {len(rendered[i].reply), len(rendered[i].reply) - one.reply.ended}:
            found.append(Sampled(sequence=rendered[i], nats=nats))
    return found


def _prompt_and(tokenizer: Any, prompt: Prompt, reply: Sequence[int]) -> TokenSequence:
    from drift.model.chat import prompt_ids

    return TokenSequence(prompt=prompt_ids(tokenizer, prompt), reply=list(reply))


def _need_same(ask: Asking, drawn: Sequence[Sampled], own: list[float], others: Mapping[str, list[float]]) -> None:
    """Raises `UserError` if the distances say that the sampler has another policy."""
    apart, greedy, over = _mean_size(own), not drawn[0].nats, f"over {len(own)} tokens of {len(drawn)} replies"
    suspect = next((name for name, other in others.items() if _fits_better(own, other, greedy)), None)
    limit = TOLERANCE if apart <= TOLERANCE or suspect or greedy else max(TOLERANCE, 2 * _rounding(ask, drawn))
    if apart <= limit and suspect is None:  # written so that NaN does not pass
        return
    fits = f" They fit {suspect} ({_mean_size(others[suspect]):.4f} nats): that is what it samples from." if suspect else ""
    raise UserError(
        f"The sampler does not sample from the policy {ask.policy.directory}: {over}, its log-probabilities are {apart:.4f} nats "
        f"per token from training's (rounding makes up to {limit:.2g}).{fits} Check that it has loaded this policy and its "
        "adapter, and that a server renders prompts with the model's own chat template and gives log-probabilities before the "
        "temperature (SGLANG_RETURN_ORIGINAL_LOGPROB=1 for SGLang). Nothing was trained on its replies. Fix that and run the same "
        "command again."
    )


def _rounding(ask: Asking, drawn: Sequence[Sampled]) -> float:
    """Nats per token between training's own log-probabilities and those in float32: more than usual after a far too high rate."""
    policy, exact = ask.policy, replace(ask.compute, lightning="32-true", dtype="float32")
    sequences = [one.sequence for one in drawn]
    found = [reference.token_logprobs(compute, policy, sequences, "same-policy check") for compute in (ask.compute, exact)]
    return _mean_size([a - b for one, other in zip(*found, strict=True) for a, b in zip(one, other, strict=True)])


def _vague(own: list[float], other: list[float]) -> bool:
    way, error = share(own, other)
    return abs(way - 0.5) <= SURE * error


def _fits_better(own: list[float], other: list[float], greedy: bool) -> bool:
    if greedy:
        return _mean_size(own) > max(FLOOR, 2 * _mean_size(other))
    way, error = share(own, other)
    return way - 0.5 > SURE * error


def _as_checked(sampler: Any) -> Any:
    """The sampler without what does not matter here: a check for one evaluation serves the others, and each may load a model."""
    limits = {"max_new_tokens": NEW_TOKENS, "max_prompt_tokens": PROMPT_TOKENS}
    shorter = {name: min(most, getattr(sampler, name)) for name, most in limits.items()}
    return _changed(sampler, **shorter, group_size=len(PROMPTS))


def _changed(sampler: Any, **settings: Any) -> Any:
    """The sampler with those of the settings that it has."""
    known = {item.name for item in fields(sampler)}
    return replace(sampler, **{name: value for name, value in settings.items() if name in known})


def _mean_size(distances: Sequence[float]) -> float:
    return math.fsum(map(abs, distances)) / len(distances) if distances else math.nan
