"""The change that a number of held-out pairs could show, computed before anything is trained.

It is the power of the two-sided sign test: which share of `count` pairs must truly move towards the better reply (half do by
chance) for an 80 % probability of p < .05? The test of the margin is a little stronger, because it also uses the size of each
change, but the spread that it depends on is not known before training.
"""

import math

LIKELY = 0.7  # the share that a useful run may well reach; the advice is how to show it
WANTED = "To show that"  # so begins the sentence on what would help, which a report repeats at its end
LARGEST_SHARE = 0.5  # the most of a log that is worth holding out


def smallest_share(count: int) -> float | None:
    """The smallest true share that `count` pairs would show; None with fewer than six pairs, which can't show any."""
    from scipy.stats import beta, binom

    needed = int(binom.isf(0.025, count, 0.5)) + 1  # pairs that must move the same way for p < .05
    return None if needed > count else float(beta.ppf(0.8, needed, count - needed + 1))


def enough_for(share: float) -> int:
    """The smallest number of pairs that would show this true share."""
    count = 6
    while (smallest := smallest_share(count)) is None or smallest > share:
        count += 1
    return count


def sentences(*, pairs: int, conversations: int, all_pairs: int, share: float) -> list[str]:
    """Sentences on `pairs` held-out pairs from so many conversations. The whole log has `all_pairs`; `share` of it is held out."""
    from drift.statistics import FEWEST

    smallest = smallest_share(conversations)
    count = f"{counted(pairs)} from {counted(conversations, 'conversation')}" if conversations < pairs else counted(pairs)
    if smallest is None:
        power = f"{count}: TOO FEW to say anything about the policy, whatever the result; at least {FEWEST} are needed."
    else:
        power = (
            f"{count} can show a change (p < .05 with 80% power) if at least {smallest:.0%} of them truly move the same way; "
            "half do by chance."
        )
        if smallest <= LIKELY:
            return [power]
    return [power, advice(enough_for(LIKELY), all_pairs, share)]


def advice(needed: int, all_pairs: int, share: float) -> str:
    """The setting that helps, if one does."""
    reason = f"{WANTED} {LIKELY:.0%} of them move, a run needs {needed} pairs"
    enough = math.ceil(20 * needed / max(1, all_pairs)) / 20
    if enough <= LARGEST_SHARE:
        return f"{reason}: evaluation.heldout.share={max(enough, share):g} holds out about that many."
    most = f"evaluation.heldout.share={LARGEST_SHARE:g} would hold out about {all_pairs * LARGEST_SHARE:.0f}; "
    return (
        f"{reason}, and the whole log has {all_pairs}: {most if share < LARGEST_SHARE else ''}more would take a longer log (or "
        "a larger intake.max_records, if it is set). Rely on the replies, side by side in the report, rather than on the numbers."
    )


def counted(number: int, noun: str = "pair") -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
