"""What a number of held-out pairs could show, said before anything is computed on them.

The rule is that of the two-sided sign test at p < .05 with 80 % power: of `count` pairs, which share must truly move towards the
better reply (half would by chance) if a run is to have four chances in five of showing it? The margin's own test is a little
stronger, as it knows by how much they moved; its size can't be planned with, as nobody knows its spread before training.
"""

import math

LIKELY = 0.7  # a share that a useful run may reach; what is advised is enough for it
LARGEST_SHARE = 0.5  # of a log that is worth holding out


def smallest_share(count: int) -> float | None:
    """The smallest true share that `count` pairs would show; None where no outcome could (of fewer than six)."""
    from scipy.stats import beta, binom

    needed = int(binom.isf(0.025, count, 0.5)) + 1  # of them must move the same way if p is to be below .05
    return None if needed > count else float(beta.ppf(0.8, needed, count - needed + 1))


def enough_for(share: float) -> int:
    """The smallest number of pairs that would show a true share."""
    count = 6
    while (found := smallest_share(count)) is None or found > share:
        count += 1
    return count


def sentences(*, pairs: int, conversations: int, of_all: int, share: float) -> list[str]:
    """Of `pairs` held-out pairs of so many conversations, out of `of_all` in the whole log, with `share` of it held out."""
    from drift.report.statistics import FEWEST

    found = smallest_share(conversations)
    few = f"{counted(pairs)} of {counted(conversations, 'conversation')}" if conversations < pairs else counted(pairs)
    if found is None:
        said = f"{few}: TOO FEW to say anything about the policy, whatever comes out; {FEWEST} are the least."
    else:
        said = (
            f"{few} can show a change (p < .05, with 80% power) where at least {found:.0%} of them truly move the same way; "
            "half would by chance."
        )
        if found <= LIKELY:
            return [said]
    return [said, advice(enough_for(LIKELY), of_all, share)]


def advice(wanted: int, of_all: int, share: float) -> str:
    """The setting that helps, if one does."""
    reason = f"To show that {LIKELY:.0%} move it takes {wanted} pairs"
    enough = math.ceil(20 * wanted / max(1, of_all)) / 20
    if enough <= LARGEST_SHARE:
        return f"{reason}: evaluation.heldout.share={max(enough, share):g} holds out about that many."
    most = f"evaluation.heldout.share={LARGEST_SHARE:g} would hold out about {of_all * LARGEST_SHARE:.0f}; "
    return (
        f"{reason}, and the whole log has {of_all}: {most if share < LARGEST_SHARE else ''}more would take a longer log (or "
        "a larger intake.max_records, where it is set). Read the replies, side by side in the report, rather than the numbers."
    )


def counted(number: int, noun: str = "pair") -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
