"""The policy that is trained, as a Lightning module.

Where we differ from the usual: the reference is never in memory while the policy trains; its log-probs were computed once
by `ReferenceModule` (score/module.py) on the same rows and come in with the batch. One training step is one optimiser step
over all its batches (manual optimisation), so the losses are sums over the whole step whatever the batch size.
"""

import math
from collections.abc import Mapping
from typing import Any

import lightning
import torch
from torch import Tensor

from drift.errors import UserError, memory_advice
from drift.finite import need_finite
from drift.objective.batch import Batch, Step
from drift.train import signal


class PolicyModule(lightning.LightningModule):
    """The trained policy. A batch of its loader is one optimiser step: `batches`, row batches with reference columns; `alone`,
    the same examples one by one where the step's signal is to be measured; `mismatched`, see plan.py. `objectives`: name ->
    drift.parts.Objective."""

    def __init__(
        self, model: Any, settings: Any, objectives: Mapping[str, Any], layout: Any, num_steps: int, check_start: bool, on_step: Any
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.strict_loading = False  # checkpoints hold trained parameters only: the frozen base is on disk already
        self.model, self.settings, self.layout, self.num_steps = model, settings, layout, num_steps
        self.objectives, self.check_start, self.on_step = objectives, check_start, on_step
        self.history: list[dict[str, float]] = []
        if settings.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            model.train()  # without it checkpointing stays silently off; there is no dropout to switch on
            if any(isinstance(module, torch.nn.Dropout) and module.p > 0 for module in model.modules()):
                raise UserError("The model has dropout; it is trained without it. Set its dropout to 0 in config.json.")

    def cpu(self) -> "PolicyModule":
        """As the reference's; it is saved from where it is."""
        return self

    def on_fit_end(self) -> None:
        self.trainer.strategy.optimizers = []  # or their state would be moved

    def training_step(self, step: dict[str, list[dict[str, Any]]], step_index: int) -> None:
        optimizer, schedule = self.optimizers(), self.lr_schedulers()
        optimizer.zero_grad()  # type: ignore[union-attr]
        totals = totals_of(step["batches"], self._kl(step["mismatched"]))
        strength = self._signal(step["alone"], totals) if step["alone"] else {}
        row = self._step_gradients(step["batches"], totals)
        norm = torch.nn.utils.clip_grad_norm_(self._trained(), self.settings.max_grad_norm)
        off = row.pop("off")
        row |= {"grad_norm": float(norm), "learning_rate": optimizer.param_groups[0]["lr"]} | strength  # type: ignore[union-attr]
        where = f"Training stopped at step {len(self.history) + 1} of {self.num_steps}"
        need_finite({"loss": row["loss"]} | row, where, self._advice())
        if not self.history and self.check_start:
            check_start(off)
        optimizer.step()  # type: ignore[union-attr]
        schedule.step()  # type: ignore[union-attr]
        self.history.append({"step": len(self.history) + 1} | row)
        self.on_step(self.history)

    def check_weights(self) -> None:
        """The last update left numbers: else no step after it would say so, and nothing of it may be kept."""
        trained = ((name, p.detach()) for name, p in self.model.named_parameters() if p.requires_grad)
        largest = {f"the largest weight of {name}": float(torch.linalg.vector_norm(p, ord=math.inf)) for name, p in trained}
        need_finite(largest, f"Training stopped after step {len(self.history)} of {self.num_steps}", self._advice())

    def _advice(self) -> str:
        """What to do about numbers that are none: the first step's come from the weights that training starts from."""
        rate = "" if not self.history else f"Lower train.learning_rate ({self.settings.learning_rate:g}), "
        check = "check the weights that training starts from, or compute in train.precision=float32."
        return f"Nothing of this step is kept. {rate}{check if rate else check.capitalize()}"

    def _step_gradients(self, step: list[dict[str, Any]], totals: Step) -> dict[str, float]:
        """Accumulates the gradients of one step; returns its metrics, means over its examples, its good or its other replies
        (entropy: over its reply tokens); and "off", the mean absolute log-ratio of its replies in nats."""
        row: dict[str, Tensor] = {}
        for tensors in step:
            with memory_advice("train.tokens_per_batch", self.settings.tokens_per_batch):
                sums, entropies = self.layout.reply_logprobs(self.model, tensors)
                batch = scored(sums, tensors)
                losses, metrics = self._losses(batch, totals)
                loss = torch.stack(list(losses.values())).sum()
                self.manual_backward(loss / totals.num_examples)
            found = {f"loss_{name}": value for name, value in losses.items()} | {"loss": loss} | metrics
            means = {name: value.detach().cpu() / totals.num_examples for name, value in found.items()}
            means |= dynamics(batch, totals)
            means["entropy"] = entropies.sum().cpu() / (totals.good_tokens + totals.bad_tokens)
            for name, value in means.items():
                row[name] = row.get(name, torch.zeros(())) + value
        return {name: float(value) for name, value in row.items()}

    def _losses(self, batch: Batch, totals: Step, paired_only: bool = False) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The weighted losses, scalars, and what the objectives watch; where two watch something of one name, the first one's."""
        losses, metrics = {}, {}
        for name, objective in self.objectives.items():
            if objective.paired or not paired_only:
                loss, found = objective.loss(batch, totals)
                losses[name] = objective.weight * loss
                metrics = dict(found) | metrics
        return losses, metrics

    def _kl(self, batches: list[dict[str, Any]]) -> float | None:
        """Mean log-ratio of a step's mismatched replies, at least 0; None where no objective asks for it."""
        if not any(objective.mismatched for objective in self.objectives.values()):
            return None
        with torch.no_grad():
            ratios = [self.layout.reply_logprobs(self.model, batch)[0] - batch["reference"] for batch in batches]
        return max(0.0, float(torch.cat(ratios).mean())) if ratios else 0.0

    def measured(self, step: int) -> bool:
        """Whether step number `step` (from 0) measures the signal of its pairs: where a loss compares replies at all."""
        every = self.settings.signal_every
        return every > 0 and step % every == 0 and any(objective.paired for objective in self.objectives.values())

    def _signal(self, examples: list[dict[str, Any]], totals: Step) -> dict[str, float]:
        """Of the step's pairs: the mean norm of their gradients, and the norm of their mean."""

        def preference(tensors: dict[str, Any]) -> Tensor:
            """Scalar: the losses that compare replies."""
            sums, _ = self.layout.reply_logprobs(self.model, tensors)
            losses, _ = self._losses(scored(sums, tensors), totals, paired_only=True)
            return torch.stack(list(losses.values())).sum()

        norms, together = signal.measure(self._trained(), map(preference, examples), self.manual_backward)
        return {"dpo_pair_norm": sum(norms) / len(norms), "dpo_norm": together}

    def configure_optimizers(self) -> Any:
        kinds = {
            "adamw": lambda p, lr: torch.optim.AdamW(p, lr=lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
            "adamw_8bit": adamw_8bit,
            "rmsprop": lambda p, lr: torch.optim.RMSprop(p, lr=lr),
        }
        optimizer = kinds[self.settings.optimizer](self._trained(), self.settings.learning_rate)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._rate)
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def _rate(self, step: int) -> float:
        return rate_share(step, self.num_steps, self.settings.warmup_share, self.settings.final_rate_share)

    def _trained(self) -> list[Any]:
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.check_weights()
        trained = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        checkpoint["state_dict"] = {name: t for name, t in checkpoint["state_dict"].items() if name in trained}
        checkpoint["history"] = self.history

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.history = list(checkpoint["history"])


def scored(sums: Tensor, tensors: dict[str, Any]) -> Batch:
    """A collated batch with the log-probs of its replies `(R,)`."""
    labels = {name: tensors[name] for name in ("good", "example")}
    return Batch(logps=sums, reference=tensors["reference"], lengths=tensors["reply_lengths"], **labels)


def totals_of(step: list[dict[str, Any]], kl: float | None) -> Step:
    """What the batches of an optimiser step hold together."""
    num_good = sum(sum(tensors["good"]) for tensors in step)
    num_replies = sum(len(tensors["good"]) for tensors in step)
    good_tokens = sum(int(tensors["reply_lengths"][: sum(tensors["good"])].sum()) for tensors in step)
    tokens = sum(int(tensors["reply_lengths"].sum()) for tensors in step)
    return Step(
        num_examples=sum(len(set(tensors["example"])) for tensors in step),
        num_good=num_good,
        num_bad=num_replies - num_good,
        good_tokens=good_tokens,
        bad_tokens=tokens - good_tokens,
        kl=kl,
    )


def adamw_8bit(parameters: Any, rate: float) -> Any:
    """AdamW whose moments take a byte each (arXiv 2110.02861)."""
    from bitsandbytes.optim import AdamW8bit  # type: ignore[attr-defined]

    return AdamW8bit(parameters, lr=rate, betas=(0.9, 0.95), weight_decay=0.0)


def rate_share(step: int, num_steps: int, warmup_share: float, final_share: float) -> float:
    """Of the learning rate, at a step (from 0): linear warm-up over the first share of the steps, then linear decay to the final
    share, which the step after the last one would have."""
    warm = max(1, round(warmup_share * num_steps)) if warmup_share else 0
    if step < warm:
        return (step + 1) / (warm + 1)
    done = (step - warm) / max(1, num_steps - warm)
    return 1 - (1 - final_share) * min(1.0, done)


@torch.no_grad()
def dynamics(batch: Batch, totals: Step) -> dict[str, Tensor]:
    """What is watched beside the losses: a batch's part in means over the step's good replies ("chosen") and over the others
    ("rejected"), where it has any. "chosen_shift": log-probability of a token of a good reply against the reference (nats).
    "off": mean absolute log-ratio of a reply (nats)."""
    shift = batch.ratios / batch.lengths
    sides = {
        "logp_chosen": (batch.logps, True), "logp_rejected": (batch.logps, False), "chosen_shift": (shift, True),
        "chosen_tokens": (batch.lengths, True), "rejected_tokens": (batch.lengths, False),
    }  # fmt: skip
    count = {True: totals.num_good, False: totals.num_bad}
    found = {name: batch.side(values, good).sum().cpu() / count[good] for name, (values, good) in sides.items() if count[good]}
    return found | {"off": batch.ratios.abs().sum().cpu() / (totals.num_good + totals.num_bad)}


def check_start(off: float) -> None:
    """Before the first update policy and reference are one: every log-ratio is 0 (so DPO's loss is ln 2), or something is wrong."""
    if not off <= 1e-5:  # so that nan does not pass
        raise RuntimeError(
            f"Step-0 check failed: replies are {off:.2e} nats more or less likely than under the reference, expected 0 (a DPO "
            "loss of ln 2). The reference log-probs were not computed by the weights that training starts from, or the model is "
            "not deterministic (dropout?). Nothing was trained."
        )
