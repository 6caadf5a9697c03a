"""The tables of an exploration, as rows of text for the console and the page, and as plain data for explore.json."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from drift.exploration.measure import Found
from drift.exploration.replies import Pool
from drift.exploration.settings import CROSSED
from drift.report.tables import Table, show, show_difference
from drift.statistics import Difference, holm, level, paired

DIGITS = {"reward": 3, "words": 1}
MEANINGS = {
    "coverage": "share of the high-reward region of all replies in which the policy's own reward-weighted density is high enough",
    "clusters reached": "number of high-reward clusters in which the policy has enough good replies",
    "reward": "mean reward of the replies",
    "distinct-n": "share of different n-grams among all n-grams of a policy's replies to one prompt; high: they differ",
    "self-BLEU": "mean BLEU-4 of a reply against the policy's other replies to the prompt; high: they repeat one another",
    "embedding distance": "mean cosine distance of two replies of the policy to one prompt; high: they differ in meaning",
    "words": "mean words of a reply; short replies have fewer repeated n-grams",
}
REACH = ("coverage", "clusters reached")  # what is measured on all replies of a policy; the others on those to one prompt


def main(pool: Pool, found: Found) -> Table:
    """A row per policy: the coverage and the clusters reached."""
    high = int(found.high.sum())
    return [
        {
            "policy": name,
            "replies": str(int((pool.policies == m).sum())),
            "coverage": show(found.coverage[name], 3),
            f"clusters reached of {high}": show(found.reached[name], 1),
            "over": found.coverage[name].over,
        }
        for m, name in enumerate(pool.policy_names)
    ]


def gaps(found: Found) -> Table:
    return [{"comparison": f"{a} - {b}", "coverage": show(gap, 3, sign=True), "over": gap.over} for a, b, gap in found.gaps]


def verdict(found: Found) -> str:
    """A sentence on the differences in coverage."""
    known = [(f"{a} - {b}", gap) for a, b, gap in found.gaps if gap.low is not None and gap.high is not None]
    decided = [f"{name} {show(gap, 3, sign=True)}" for name, gap in known if (gap.low or 0.0) > 0 or (gap.high or 0.0) < 0]
    if not known:
        return "Coverage: too few prompts for intervals, so nothing is said of which policy reaches more."
    if not decided:
        return f"Coverage: of {len(known)} differences between policies, the interval of none leaves out 0."
    outside = f"the intervals of {len(decided)} leave out 0: {'; '.join(decided)}"
    return f"Coverage: of {len(known)} differences between policies, {outside}."


def meanings(names: Sequence[str]) -> str:
    return "; ".join(f"{name}: {MEANINGS[name]}" for name in names) + "."


def conversations(pool: Pool) -> dict[str, str]:
    return {record.key: record.conversation for record in pool.records}


def differences(pool: Pool, found: Found) -> dict[tuple[str, str], Difference]:
    """(metric, policy) -> its paired difference from the first policy, prompt by prompt, p corrected for all of them (Holm)."""
    first, groups = pool.policy_names[0], conversations(pool)
    made = {
        (metric, name): paired(values, by_policy[first], groups)
        for metric, by_policy in found.replies.items()
        for name, values in by_policy.items()
        if name != first
    }
    known = [key for key, gain in made.items() if gain.p is not None]
    adjusted = holm([made[key].p or 0.0 for key in known])
    return made | {key: replace(made[key], p=p) for key, p in zip(known, adjusted, strict=True)}


def replies(pool: Pool, found: Found) -> tuple[Table, Table]:
    """(the level of each metric, the difference from the first policy); a row per policy."""
    gains, groups = differences(pool, found), conversations(pool)
    levels = [
        {"policy": name} | {m: show(level(by_policy[name], groups), DIGITS.get(m, 3)) for m, by_policy in found.replies.items()}
        for name in pool.policy_names
    ]
    changes = [
        {"policy": name} | {m: show_difference(gains[m, name], DIGITS.get(m, 3)) for m in found.replies}
        for name in pool.policy_names[1:]
    ]
    return levels, changes


def sensitivity(found: Found) -> tuple[Table, Table]:
    """(the combinations of bandwidth, quantile and threshold; one other setting at a time): the coverages with other settings."""

    def cells(values: dict[str, float]) -> dict[str, str]:
        return {name: f"{value:.3f}" for name, value in values.items()} | {"highest": highest(values)}

    crossed = [
        {k: f"{v:g}" for k, v in changed.items()} | cells(c) for changed, c in found.sensitivity if changed.keys() == set(CROSSED)
    ]
    alone = [
        {"setting": ", ".join(f"{key}={value}" for key, value in changed.items())} | cells(values)
        for changed, values in found.sensitivity
        if changed.keys() != set(CROSSED)
    ]
    return crossed, alone


def highest(values: dict[str, float]) -> str:
    """The policies with the highest coverage."""
    return ", ".join(name for name, value in values.items() if value >= max(values.values()) - 1e-12)


def robustness(found: Found) -> str:
    """A sentence: which policy is highest, and in how many variants."""
    counted = Counter(highest(values) for _, values in found.sensitivity)
    listed = "; ".join(f"{name} in {count}" for name, count in counted.most_common())
    return f"Highest coverage with other settings, of {len(found.sensitivity)} variants: {listed}."


def cluster_rows(pool: Pool, found: Found) -> list[dict[str, str]]:
    """A row per cluster, the best first: its size, its mean weight, the replies of each policy, and one reply as an example."""
    order = sorted(range(len(found.high)), key=lambda c: -found.weights[found.clusters == c].mean())
    rows = []
    for c in order:
        inside = np.flatnonzero(found.clusters == c)
        counts = {name: str(int((pool.policies[inside] == m).sum())) for m, name in enumerate(pool.policy_names)}
        text = pool.texts[int(inside[found.weights[inside].argmax()])]
        shown = {"mean weight": f"{found.weights[inside].mean():.2f}", "high reward": "yes" if found.high[c] else "-"}
        rows.append({"replies": str(len(inside))} | shown | counts | {"for example": " ".join(text.split())[:90]})
    return rows


def plain(pool: Pool, found: Found) -> dict[str, Any]:
    """All figures, for other programs."""
    gains, groups = differences(pool, found), conversations(pool)
    return {
        "policies": pool.policy_names,
        "seeds": pool.seed_names,
        "prompts": len(pool.records),
        "replies": len(pool.texts),
        "reward": pool.reward,
        "notes": pool.notes,
        "coverage": {name: asdict(one) for name, one in found.coverage.items()},
        "coverage_by_seed": found.by_seed,
        "coverage_differences": [{"policy": a, "minus": b} | asdict(gap) for a, b, gap in found.gaps],
        "clusters": {"all": len(found.high), "high_reward": int(found.high.sum())},
        "clusters_reached": {name: asdict(one) for name, one in found.reached.items()},
        "per_prompt": {m: {name: asdict(level(values, groups)) for name, values in by.items()} for m, by in found.replies.items()},
        "differences_from_first": [{"metric": m, "policy": name} | asdict(gain) for (m, name), gain in gains.items()],
        "sensitivity": [{"settings": changed, "coverage": values} for changed, values in found.sensitivity],
        "meanings": MEANINGS,
    }
