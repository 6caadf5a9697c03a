"""The numbers of one method, from its examples."""

from collections.abc import Mapping, Sequence
from typing import Any

from drift.errors import UserError
from drift.parts import Objective
from drift.records import Example, Reply, example, fresh
from drift.score.plan import tokenize
from drift.signal.known import Known
from drift.signal.replies import prompt_key, verdicts
from drift.signal.truth import expected_share
from drift.signal.weights import reply_weights, sides


def figures_of(
    known: Known, examples: Sequence[Example], weights: Sequence[Sequence[float]], tokenizer: Any, label: str, *, judged: bool
) -> dict[str, Any]:
    """The row of signal.json. `weights`: of every reply of every example. `judged`: a judge has chosen the fresh replies."""
    import numpy as np

    from drift.signal import figures

    tokenised = tokenize(tokenizer, examples)
    index = iter(known.gradients.add([one for each in tokenised for one in each.sequences], label))
    places = [[next(index) for _ in one.sequences] for one in tokenised]
    gradients, lengths = known.gradients.matrix(), np.array(known.gradients.lengths)
    vectors = np.stack([np.asarray(w) @ gradients[place].astype(float) for w, place in zip(weights, places, strict=True)])
    net = np.array([np.asarray(w) @ lengths[place] for w, place in zip(weights, places, strict=True)])
    prompts = np.array([known.places.get(prompt_key(one.prompt), -1) for one in examples])
    row = figures.Examples(vectors=vectors, lengths=net, records=[one.record for one in examples], prompts=prompts)
    everywhere = np.ones(len(known.fresh.lengths), dtype=bool)
    level = figures.moments(vectors - net[:, None] * known.fresh.per_token(everywhere), row.records)
    counts = {"examples": len(examples), "records": len(set(row.records))}
    shorter = named("shorter", figures.along(row, known.splits, "shorter"))
    if known.truth is None:
        return counts | level | shorter
    signal = named("signal", figures.along(row, known.splits, "good"))
    theirs, noise = theory(known, examples, weights, judged), level["mean_noise"]
    snr = {"snr": ratio(signal["signal"], noise), "snr_predicted": ratio(theirs["predicted"], noise)}
    return counts | level | shorter | signal | theirs | snr


def named(name: str, found: Mapping[str, float | None]) -> dict[str, float | None]:
    """What `figures.along` found, under the names of signal.json."""
    ends = {"part": "", "error": "_error", "deviation": "_deviation", "cosine": "_cosine"}
    return {f"{name}{ends[key]}": value for key, value in found.items()}


def theory(known: Known, examples: Sequence[Example], weights: Sequence[Sequence[float]], judged: bool) -> dict[str, Any]:
    """`good_for`, `good_against`: the share of good replies among those that are learnt from, and learnt against. `predicted`: the
    signal that they should have (truth.py)."""
    assert known.truth is not None
    records = [known.records[one.record] for one in examples]
    replies = [[Reply(text=reply.text, num_tokens=0, ended=reply.ended) for reply in one.replies] for one in examples]
    good = verdicts(known.ask, list(zip(records, replies, strict=True)))
    labels = [record.label for record in records]
    share = expected_share(known.truth, weights, [one.replies for one in examples], labels, good if judged else None)
    for_it, against = sides(weights, good)
    predicted = share * known.contrast if share is not None and known.contrast is not None else None
    return {"good_for": for_it, "good_against": against, "predicted": predicted}


def ratio(signal: float | None, noise: float | None) -> float | None:
    return signal / noise if signal is not None and noise else None


def of_method(known: Known, run: Any, examples: Sequence[Example], tokenizer: Any, label: str) -> dict[str, Any]:
    """The row of a run's method, weighted by its objectives. `lacks`: they have no gradient."""
    objectives: Mapping[str, Objective] = run.objective
    try:
        weights = reply_weights(objectives, tokenize(tokenizer, examples))
    except UserError as error:
        return {"lacks": str(error)}
    return figures_of(known, examples, weights, tokenizer, label, judged=run.method.judge is not None)


def best(known: Known, tokenizer: Any, label: str) -> dict[str, Any]:
    """The row of pairs of the first good and the first bad fresh reply to a prompt: the most that a pair can tell. `lacks`: no
    prompt has both."""
    assert known.truth is not None
    examples = []
    for one, good in zip(known.drawn, known.fresh.good, strict=True):
        if 0 < good.sum() < len(good):
            chosen, rejected = (one.replies[list(good).index(value)] for value in (1, 0))
            examples.append(example(one.record, fresh(chosen, good=True), fresh(rejected, good=False)))
    if not examples:
        return {"lacks": "No prompt has both a good and a bad fresh reply, so nothing is known about what is good."}
    return figures_of(known, examples, [[1.0, -1.0]] * len(examples), tokenizer, label, judged=True)
