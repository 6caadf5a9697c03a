"""How much a reply's log-prob changes with the packing: one sequence at a time against many in a batch, in both precisions.

    python experiments/speed/packing.py [--pairs 8]

Log-probs are summed over a reply; pairs are those of `training.py`.
"""

from dataclasses import replace

from side_by_side import composed, inputs_of, model_directory
from training import real_pairs, tokenized


def main() -> None:
    parser = inputs_of(__doc__)
    parser.add_argument("--pairs", type=int, default=8)
    arguments = parser.parse_args()

    from hydra.utils import instantiate

    from drift.model.policy import policy_at
    from drift.score.reference import sequence_logprobs

    directory = model_directory(arguments.model)
    pairs = tokenized(directory, real_pairs(directory, arguments.data, arguments.pairs))
    rows = [row for pair in pairs for row in pair.sequences]
    for precision in ("float32", "bfloat16"):
        train = instantiate(composed("train=full", f"train.precision={precision}").train)
        alone, packed = (
            sequence_logprobs(
                replace(train, tokens_per_batch=tokens).compute, policy_at(directory), rows, f"{tokens} tokens a batch"
            )
            for tokens in (1, 2048)
        )
        apart = [abs(one - other) for one, other in zip(alone, packed, strict=True)]
        print(
            f"{precision}: at most {max(apart):.2g}, on average {sum(apart) / len(apart):.2g} nats; "
            f"log-probs of {min(alone):.0f} to {max(alone):.0f}"
        )


if __name__ == "__main__":
    main()
