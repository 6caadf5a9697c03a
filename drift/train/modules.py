"""The policy that is trained, as a Lightning module.

Where it differs from the usual: the reference is never in memory while the policy trains; its log-probs were computed once
by `ReferenceModule` (score/module.py) on the same batches and come with them. One training step is one optimiser step over
all its batches (manual optimisation), so the losses are sums over the whole step whatever the batch size.
"""

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import lightning
import torch
from torch import Tensor

from drift.engine.ranks import world
from drift.errors import UserError, memory_advice
from drift.finite import need_finite
from drift.model.precision import rounded_for_each_use
from drift.objective.batch import Batch, Step
from drift.score.reference import check_start
from drift.train import signal
from drift.train.optimizer import optimizer_of, rate_share
from drift.train.parallel import added, divide_again, everyones, is_sharded, local, local_gradients, shard, whole

MEAN_ABS_RATIO = "mean_abs_ratio"  # key of the mean absolute log-ratio of a step's replies, which is 0 at the start


class PolicyModule(lightning.LightningModule):
    """The trained policy. An item of its loader is one optimiser step: `batches`, collated sequences with the reference's
    log-probs; `singles`, the same examples one by one, if the step's signal is measured; `mismatched`, see plan.py. With several
    ranks these are the rank's own; batches with the key `fill` count nothing. `objectives`: name -> drift.parts.Objective."""

    def __init__(
        self, model: Any, settings: Any, objectives: Mapping[str, Any], layout: Any, num_steps: int, check_start: bool, on_step: Any
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.strict_loading = False  # checkpoints hold only trained parameters: the frozen base is on disk already
        self.model, self.settings, self.layout, self.num_steps = model, settings, layout, num_steps
        self.objectives, self.check_start, self.on_step = objectives, check_start, on_step
        self.history: list[dict[str, float]] = []
        self.num_trained = 0  # examples in the steps of this process, on all ranks
        self.divided = is_sharded(settings.strategy)
        if settings.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            model.train()  # otherwise checkpointing stays off silently; the next check makes sure that no dropout comes on
            if any(isinstance(module, torch.nn.Dropout) and module.p > 0 for module in model.modules()):
                raise UserError(
                    "The model has dropout, and training needs a model without it. Set its dropout to 0 in config.json."
                )

    def configure_model(self) -> None:
        if self.device_mesh is not None:  # of the ranks that divide the weights
            dtype = getattr(torch, self.settings.compute.dtype)
            shard(self, self.device_mesh["data_parallel"], dtype=dtype, offload=self.settings.cpu_offload)

    def forward(self, tensors: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
        """As `reply_logprobs` of the layout: hidden states and head, in one call."""
        with rounded_for_each_use():
            return self.layout.reply_logprobs(self.model, tensors)

    def cpu(self) -> "PolicyModule":
        """Does nothing, as in `ReferenceModule`: the policy is saved from the device."""
        return self

    def configure_callbacks(self) -> list[lightning.Callback]:
        return [Dropped()]

    def training_step(self, step: dict[str, list[dict[str, Any]]], step_index: int) -> None:
        optimizer, schedule = self.optimizers(), self.lr_schedulers()
        optimizer.zero_grad()  # type: ignore[union-attr]
        totals = totals_of(step["batches"], self._kl(step["mismatched"]))
        strength = self._signal(step["singles"], totals) if self.measured(len(self.history)) else {}
        metrics = self._step_gradients(step["batches"], totals)
        norm = self._clip()
        ratio = metrics.pop(MEAN_ABS_RATIO)
        rate = optimizer.param_groups[0]["lr"]  # type: ignore[union-attr]
        metrics |= {"grad_norm": float(norm), "learning_rate": rate} | strength
        where = f"Training stopped at step {len(self.history) + 1} of {self.num_steps}"
        need_finite({"loss": metrics["loss"]} | metrics, where, self._advice())
        if not self.history and self.check_start:
            check_start(ratio)
        self.num_trained += totals.num_examples
        optimizer.step()  # type: ignore[union-attr]
        schedule.step()  # type: ignore[union-attr]
        self.history.append({"step": len(self.history) + 1} | metrics)
        self.on_step(self.history)

    def _clip(self) -> Tensor:
        """Scales the gradients down to `max_grad_norm`; returns their norm before that."""
        trained = self._trained()
        norm = whole(torch.nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None]))
        torch.nn.utils.clip_grads_with_norm_(trained, self.settings.max_grad_norm, norm)
        return norm

    def check_weights(self) -> None:
        """Refuses weights that are not finite after the last update: no later step would notice them. Every rank looks at the
        weights that it holds."""
        trained = {name: local(p.detach()) for name, p in self.model.named_parameters() if p.requires_grad}
        mine = {name: float(torch.linalg.vector_norm(p, ord=math.inf)) if p.numel() else 0.0 for name, p in trained.items()}
        parts = everyones(mine)
        worst = {name: max((part[name] for part in parts), key=lambda v: math.inf if math.isnan(v) else v) for name in mine}
        largest = {f"the largest weight of {name}": value for name, value in worst.items()}
        need_finite(largest, f"Training stopped after step {len(self.history)} of {self.num_steps}", self._advice())

    def _advice(self) -> str:
        """What to do about numbers that are not finite. At the first step only the start weights can be the cause."""
        rate = "" if not self.history else f"Lower train.learning_rate ({self.settings.learning_rate:g}), "
        check = "check the weights that training starts from, or compute in train.precision=float32."
        return f"This step is not kept. {rate}{check if rate else check.capitalize()}"

    def _step_gradients(self, step: list[dict[str, Any]], totals: Step) -> dict[str, float]:
        """Accumulates the gradients of one step; returns its metrics: means over its examples, its good or its bad replies
        (entropy: over its reply tokens); and MEAN_ABS_RATIO, the mean absolute log-ratio of its replies in nats."""
        total: dict[str, Tensor] = {}
        for number, tensors in enumerate(step, start=1):
            weight = 0.0 if "fill" in tensors else float(world())  # the ranks' gradients are averaged
            advice = memory_advice("train.tokens_per_batch", self.settings.tokens_per_batch)
            with advice, self._local() if number < len(step) else nullcontext():
                sums, entropies, tokens = self(tensors)
                batch = batch_of(sums, tokens, tensors)
                losses, metrics = self._losses(batch, totals)
                loss = torch.stack(list(losses.values())).sum()
                self.manual_backward(loss * weight / totals.num_examples)
            if not weight:
                continue
            batch_sums = {f"loss_{name}": value for name, value in losses.items()} | {"loss": loss} | metrics
            means = {name: value.detach().cpu() / totals.num_examples for name, value in batch_sums.items()}
            means |= dynamics(batch, totals)
            means["entropy"] = entropies.sum().cpu() / (totals.good_tokens + totals.bad_tokens)
            for name, value in means.items():
                total[name] = total.get(name, torch.zeros(())) + value
        return added(everyones({name: float(value) for name, value in total.items()}))

    def _local(self) -> AbstractContextManager[None]:
        """Backward passes inside leave the ranks' gradients apart, unless the weights are divided."""
        return local_gradients(self.trainer.model) if world() > 1 else nullcontext()

    def _losses(self, batch: Batch, totals: Step, paired_only: bool = False) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The weighted losses (scalars) and the metrics of the objectives; of two metrics with one name, the first objective's."""
        losses, metrics = {}, {}
        for name, objective in self.objectives.items():
            if objective.paired or not paired_only:
                loss, measured = objective.loss(batch, totals)
                losses[name] = objective.weight * loss
                metrics = dict(measured) | metrics
        return losses, metrics

    def _kl(self, batches: list[dict[str, Any]]) -> float | None:
        """The mean log-ratio of a step's mismatched replies, at least 0; None if no objective needs it."""
        if not any(objective.mismatched for objective in self.objectives.values()):
            return None
        with torch.no_grad():
            found = [(batch, self(batch)[0] - batch["reference"]) for batch in batches]
        if self.divided:
            divide_again(self)
        ratios = [values for batch, values in found if "fill" not in batch]
        if world() > 1:
            ratios = [values for part in everyones([values.cpu() for values in ratios]) for values in part]
        return max(0.0, float(torch.cat(ratios).mean())) if ratios else 0.0

    def measured(self, step: int) -> bool:
        """Whether step number `step` (from 0) measures the signal of its pairs; never if no loss compares replies."""
        every = self.settings.signal_every
        return every > 0 and step % every == 0 and any(objective.paired for objective in self.objectives.values())

    def _signal(self, examples: list[dict[str, Any]], totals: Step) -> dict[str, float]:
        """Of the gradients of the step's pairs: the mean of their norms, and the norm of their mean."""

        def preference(tensors: dict[str, Any]) -> Tensor:
            """Scalar: the sum of the losses that compare replies."""
            sums, _, tokens = self(tensors)
            losses, _ = self._losses(batch_of(sums, tokens, tensors), totals, paired_only=True)
            return torch.stack(list(losses.values())).sum()

        measure = signal.measure_divided if self.divided else signal.measure
        with self._local():
            norms, mean_norm = measure(self._trained(), map(preference, examples), self.manual_backward)
        return {"dpo_pair_norm": sum(norms) / len(norms), "dpo_norm": mean_norm}

    def configure_optimizers(self) -> Any:
        optimizer = optimizer_of(self.settings.optimizer, self._trained(), self.settings.learning_rate)
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


def batch_of(sums: Tensor, tokens: Tensor, tensors: dict[str, Any]) -> Batch:
    """The objectives' view of a collated batch. `sums` `(R,)`, `tokens` `(N,)`: the log-probs of its replies and their tokens."""
    columns = {name: tensors[name] for name in ("reference", "good", "example")}
    return Batch(logps=sums, tokens=tokens, hindsight=tensors.get("hindsight"), lengths=tensors["reply_lengths"], **columns)


def totals_of(step: list[dict[str, Any]], kl: float | None) -> Step:
    """The totals over the batches of an optimiser step, those of all ranks."""
    counted = [tensors for tensors in step if "fill" not in tensors]
    num_good = sum(sum(tensors["good"]) for tensors in counted)
    good_tokens = sum(int(tensors["reply_lengths"][: sum(tensors["good"])].sum()) for tensors in counted)
    mine = {
        "num_examples": sum(len(set(tensors["example"])) for tensors in counted),
        "num_good": num_good,
        "num_bad": sum(len(tensors["good"]) for tensors in counted) - num_good,
        "good_tokens": good_tokens,
        "bad_tokens": sum(int(tensors["reply_lengths"].sum()) for tensors in counted) - good_tokens,
    }
    return Step(**{name: int(count) for name, count in added(everyones(mine)).items()}, kl=kl)


@torch.no_grad()
def dynamics(batch: Batch, totals: Step) -> dict[str, Tensor]:
    """Metrics beside the losses: a batch's part in means over the step's good replies ("chosen") and bad ones ("rejected"), if it
    has any. "chosen_shift": log-probability of a token of a good reply relative to the reference (nats). MEAN_ABS_RATIO: mean
    absolute log-ratio of a reply (nats)."""
    shift = batch.ratios / batch.lengths
    sides = {
        "logp_chosen": (batch.logps, True), "logp_rejected": (batch.logps, False), "chosen_shift": (shift, True),
        "chosen_tokens": (batch.lengths, True), "rejected_tokens": (batch.lengths, False),
    }  # fmt: skip
    count = {True: totals.num_good, False: totals.num_bad}
    means = {name: batch.side(values, good).sum().cpu() / count[good] for name, (values, good) in sides.items() if count[good]}
    return means | {MEAN_ABS_RATIO: batch.ratios.abs().sum().cpu() / (totals.num_good + totals.num_bad)}


class Dropped(lightning.Callback):
    """Drops the optimiser when training ends, in whatever way: Lightning would move its state to the CPU, gigabytes of it."""

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        trainer.strategy.optimizers = []

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        trainer.strategy.optimizers = []
