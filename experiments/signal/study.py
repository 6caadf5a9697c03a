"""Does SPIN's signal vanish at its fixed point, and what does DRIFT's do there? On the tiny model, where the fixed point is known.

    python experiments/signal/study.py FOLDER     resumes if it was killed

A tiny model writes the liked replies (the author); the policy is another one, whose replies were deployed and disliked. SPIN's
fixed point is the author itself: liked and fresh replies then come from the same distribution. Every iteration draws new replies
from both, so that no finite log limits the policy. DRIFT's pairs are measured at the same policies, and in a training of their own.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from drift.console import say, table  # noqa: E402
from drift.model.chat import prompt_ids  # noqa: E402
from drift.model.policy import Policy, load_model, load_tokenizer, policy_at  # noqa: E402
from drift.model.tiny import Tiny  # noqa: E402
from drift.objective.dpo import Dpo, dpo  # noqa: E402
from drift.records import digest  # noqa: E402
from drift.score import shared  # noqa: E402
from drift.score.plan import TokenisedExample, make_plan  # noqa: E402
from drift.score.reference import reference_stage, sequence_logprobs  # noqa: E402
from drift.score.sequence import TokenSequence  # noqa: E402
from drift.store import Store  # noqa: E402
from drift.train import signal  # noqa: E402
from drift.train.fit import train_stage  # noqa: E402
from drift.train.frozen import num_frozen  # noqa: E402

PAIRS, ITERATIONS, BETA, RATE, SHARPNESS = 512, 48, 0.1, 2e-3, 2
TOKENS = 6  # of a reply, at most
PROMPTS = [[{"role": "user", "content": f"Question {i}?"}] for i in range(10, 42)]  # of one length


class Study:
    """The models, their pairs, and what is measured of them."""

    def __init__(self, folder: Path) -> None:
        from hydra.utils import instantiate

        from drift.compose import compose

        overrides = [
            "train=full", "train.precision=float32", "train.optimizer=adamw",
            "train.examples_per_step=32", "train.warmup_share=0", "train.final_rate_share=1", "train.gradient_checkpointing=false",
            "train.signal_every=0",
        ]  # fmt: skip
        self.train = instantiate(compose(overrides).train)
        self.store = Store(dir=str(folder / "store"), strict=False, verify=False, lease_seconds=60.0, keep_policies="all")
        self.deployed, author = (
            policy_at(Tiny(layers=2, hidden_size=32, weights_seed=seed, cache_dir=str(folder), template={}).directory())
            for seed in (0, 1)
        )
        self.author = sharper(author, folder / "author")
        self.tokenizer = load_tokenizer(self.deployed)
        self.prompts = [prompt_ids(self.tokenizer, prompt) for prompt in PROMPTS]

    def replies(self, policy: Policy, purpose: str, iteration: int) -> list[TokenSequence]:
        """PAIRS replies as token ids, the prompts taken in turn: texts would not keep the bytes that random weights say."""
        import torch

        torch.manual_seed(int(digest([purpose, iteration])[:12], 16))
        prompts = [self.prompts[i % len(self.prompts)] for i in range(PAIRS)]
        model = load_model(policy, torch.float32)
        end = self.tokenizer.eos_token_id
        ids = torch.tensor(prompts)
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=TOKENS
        )
        said = out[:, ids.shape[1] :].tolist()
        return [
            TokenSequence(prompt=prompt, reply=reply[: reply.index(end) + 1] if end in reply else reply)
            for prompt, reply in zip(prompts, said, strict=True)
        ]

    def pairs(self, method: str, policy: Policy, iteration: int) -> list[TokenisedExample]:
        """SPIN: (the author's, the policy's); DRIFT: (the policy's, the deployed model's)."""
        fresh = self.replies(policy, f"{method} fresh", iteration)
        logged = self.replies(self.author if method == "spin" else self.deployed, f"{method} logged", iteration)
        sides = (logged, fresh) if method == "spin" else (fresh, logged)
        return [TokenisedExample(sequences=[chosen, rejected], good=[True, False]) for chosen, rejected in zip(*sides, strict=True)]

    def strength(self, policy: Policy, pairs: Sequence[TokenisedExample]) -> dict[str, float]:
        """Of DPO's gradient at its first step, where policy and reference are one: the norms, and what the norm of the mean would
        be on average if the true mean were 0 ("by chance")."""
        import torch

        model = load_model(policy, torch.float32, trainable=True)

        def loss(pair: TokenisedExample) -> Any:
            chosen, rejected = shared.reply_logprobs(model, shared.collate(pair.sequences, 0))[0]
            return dpo(chosen - chosen.detach(), rejected - rejected.detach(), BETA)

        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        norms, together = signal.measure(trained, map(loss, pairs), lambda loss: loss.backward())
        floor = (sum(norm**2 for norm in norms) / len(norms) / len(norms)) ** 0.5
        return {"mean of norms": sum(norms) / len(norms), "norm of mean": together, "by chance": floor}

    def distance(self, policy: Policy, iteration: int) -> float:
        """KL(author, policy) in nats a reply, estimated on the author's replies."""
        rows = self.replies(self.author, "distance", iteration)
        scores = [sequence_logprobs(self.train.compute, one, rows, "distance") for one in (self.author, policy)]
        return sum(a - b for a, b in zip(*scores, strict=True)) / len(rows)

    def row(self, policy: Policy, iteration: int, trains_on: str) -> dict[str, Any]:
        found = {"trains on": trains_on, "iteration": iteration, "KL": self.distance(policy, iteration)}
        for method in ("spin", "drift"):
            found[method] = self.strength(policy, self.pairs(method, policy, iteration))
        return found

    def next(self, policy: Policy, trains_on: str, iteration: int) -> Policy:
        train = replace(self.train, learning_rate=RATE * (1 - iteration / ITERATIONS))
        rows = make_plan(
            self.pairs(trains_on, policy, iteration), layout=train.layout, examples_per_step=train.examples_per_step,
            tokens_per_batch=train.tokens_per_batch, example_order="shuffled", seed=0, longest_mismatched=None,
        )  # fmt: skip
        scored = reference_stage(self.store, train.compute, policy, rows, layers=num_frozen(train, policy, rows))
        done = train_stage(
            self.store,
            train,
            {"dpo": Dpo(weight=1.0, beta=BETA)},
            policy,
            policy,
            rows,
            scored,
            epochs=1,
            on_step=lambda history: None,
        )
        return policy_at(done.path / "policy")


def sharper(policy: Policy, directory: Path) -> Policy:
    """The model with its logits times SHARPNESS: random weights alone say hardly more than noise."""
    import torch

    model = load_model(policy, torch.float32)
    with torch.no_grad():
        model.model.norm.weight.mul_(SHARPNESS)
    model.save_pretrained(directory)
    load_tokenizer(policy).save_pretrained(directory)
    return policy_at(directory)


def main(folder: Path) -> None:
    study, file = Study(folder), folder / "rows.jsonl"
    known = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
    done = {(row["trains on"], row["iteration"]) for row in known}

    def note(policy: Policy, iteration: int, trains_on: str) -> None:
        if (trains_on, iteration) not in done:
            with open(file, "a", encoding="utf-8") as out:
                out.write(json.dumps(study.row(policy, iteration, trains_on)) + "\n")

    note(study.author, 0, "nothing: the author itself")
    for trains_on in ("spin", "drift"):
        policy = study.deployed
        for iteration in range(ITERATIONS + 1):
            if iteration % 8 == 0:
                note(policy, iteration, trains_on)
            if iteration < ITERATIONS:
                policy = study.next(policy, trains_on, iteration)
    show([json.loads(line) for line in file.read_text().splitlines()])


def show(rows: list[dict[str, Any]]) -> None:
    lines = []
    for row in rows:
        line = {"trains on": row["trains on"], "iteration": str(row["iteration"]), "KL": f"{row['KL']:.3f}"}
        for method in ("spin", "drift"):
            line |= {f"{method}: {name}": f"{value:.4f}" for name, value in row[method].items()}
        lines.append(line)
    table(lines)
    say("by chance: what the norm of the mean would be if the true mean were 0")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
