"""The two Lightning modules: the policy that is trained, and the reference that only says its numbers.

Where we differ from the usual: the reference is never in memory while the policy trains; its log-probs were computed once by
`ReferenceModule` on the same rows and come in with the batch. One training step is one optimiser step over all its batches
(manual optimisation), so the losses are sums over the whole step whatever the batch size.
"""

import math
from typing import Any

import lightning
import torch
from torch import Tensor

from drift.errors import UserError, memory_advice
from drift.finite import need_finite
from drift.train import objective, signal

Halves = tuple[Tensor, Tensor]  # of the chosen replies, of the rejected ones


class ReferenceModule(lightning.LightningModule):
    """Frozen model; `predict_step` gives the summed reply log-probs `(R,)` of a batch of rows."""

    def __init__(self, model: Any, layout: Any, on_batch: Any) -> None:
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.layout, self.on_batch = layout, on_batch

    def cpu(self) -> "ReferenceModule":
        """Stays where it is when its Trainer ends, and is freed there: Lightning would move all its weights."""
        return self

    def predict_step(self, batch: dict[str, Any]) -> Tensor:
        sums, _ = self.layout.reply_logprobs(self.model, batch)
        self.on_batch(len(sums))
        return sums.cpu()


class PolicyModule(lightning.LightningModule):
    """The trained policy. A batch of its loader is one optimiser step: `batches`, a list of row batches with reference columns, and
    `alone`, the same pairs one by one where the step's signal is to be measured."""

    def __init__(self, model: Any, settings: Any, layout: Any, num_steps: int, check_start: bool, on_step: Any) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.strict_loading = False  # checkpoints hold trained parameters only: the frozen base is on disk already
        self.model, self.settings, self.layout, self.num_steps = model, settings, layout, num_steps
        self.check_start, self.on_step = check_start, on_step
        self.history: list[dict[str, float]] = []
        if settings.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            model.train()  # without it checkpointing stays silently off; there is no dropout to switch on
            if any(isinstance(module, torch.nn.Dropout) and module.p > 0 for module in model.modules()):
                raise UserError("The model has dropout; DPO is trained without it. Set its dropout to 0 in config.json.")

    def cpu(self) -> "PolicyModule":
        """As the reference's; it is saved from where it is."""
        return self

    def on_fit_end(self) -> None:
        self.trainer.strategy.optimizers = []  # or their state would be moved

    def training_step(self, step: dict[str, list[dict[str, Any]]], step_index: int) -> None:
        optimizer, schedule = self.optimizers(), self.lr_schedulers()
        optimizer.zero_grad()  # type: ignore[union-attr]
        strength = self._signal(step["alone"]) if step["alone"] else {}
        sums = self._step_gradients(step["batches"])
        norm = torch.nn.utils.clip_grad_norm_(self._trained(), self.settings.max_grad_norm)
        row = {name: float(value) for name, value in sums.items()}
        row |= {"grad_norm": float(norm), "learning_rate": optimizer.param_groups[0]["lr"]} | strength  # type: ignore[union-attr]
        where = f"Training stopped at step {len(self.history) + 1} of {self.num_steps}"
        need_finite({"loss": row["loss"]} | row, where, self._advice())
        if not self.history and self.check_start:
            check_start(row)
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

    def _step_gradients(self, step: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Accumulates the gradients of one step; returns its metrics, means over its pairs (entropy: over its
        reply tokens)."""
        lengths = [halves(batch["reply_lengths"]) for batch in step]
        pairs = sum(len(chosen) for chosen, _ in lengths)
        chosen_tokens = sum(int(chosen.sum()) for chosen, _ in lengths)
        reply_tokens = chosen_tokens + sum(int(rejected.sum()) for _, rejected in lengths)
        total: dict[str, Tensor] = {}
        for batch in step:
            with memory_advice("train.tokens_per_batch", self.settings.tokens_per_batch):
                sums, entropies = self.layout.reply_logprobs(self.model, batch)
                chosen, rejected = halves(sums)
                ratios = halves(sums - batch["reference"])
                parts = self._losses(ratios, halves(batch["reply_lengths"]))  # (B,) each
                if nll_weight := self.settings.loss.nll:
                    parts["nll"] = objective.nll(chosen, chosen_tokens) * pairs * nll_weight
                loss = torch.stack([part.sum() for part in parts.values()]).sum()
                self.manual_backward(loss / pairs)
            metrics = {f"loss_{name}": part.sum() for name, part in parts.items()} | {"loss": loss}
            metrics |= dynamics(chosen, rejected, ratios, halves(batch["reply_lengths"]), self.settings.loss.beta)
            metrics["entropy"] = entropies.sum() * pairs / reply_tokens
            for name, value in metrics.items():
                total[name] = total.get(name, torch.zeros(())) + value.detach().cpu() / pairs
        return total

    def _signal(self, pairs: list[dict[str, Any]]) -> dict[str, float]:
        """Of the step's pairs: the mean norm of their gradients, and the norm of their mean."""
        norms, together = signal.measure(self._trained(), map(self._preference, pairs), self.manual_backward)
        return {"dpo_pair_norm": sum(norms) / len(norms), "dpo_norm": together}

    def _preference(self, batch: dict[str, Any]) -> Tensor:
        """Scalar: the preference losses of a batch, without the NLL term."""
        sums, _ = self.layout.reply_logprobs(self.model, batch)
        parts = self._losses(halves(sums - batch["reference"]), halves(batch["reply_lengths"]))
        return torch.stack([part.sum() for part in parts.values()]).sum()

    def _losses(self, ratios: Halves, lengths: Halves) -> dict[str, Tensor]:
        """The weighted preference losses in use, `(B,)` each."""
        loss = self.settings.loss
        functions = {
            "sigmoid": lambda: objective.sigmoid(*ratios, loss.beta),
            "hinge": lambda: objective.hinge(*ratios, loss.beta),
            "robust": lambda: objective.robust(*ratios, loss.beta, loss.label_noise),
            "ipo": lambda: objective.ipo(*ratios, *lengths, loss.beta),
            "sigmoid_norm": lambda: objective.sigmoid_norm(*ratios, *lengths, loss.beta),
            "dpop": lambda: objective.dpop(*ratios, loss.beta, loss.dpop_penalty),
        }
        return {name: weight * functions[name]() for name, weight in loss.weights().items() if name != "nll"}

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


def halves(values: Tensor) -> Halves:
    """A batch's `(2B,)` numbers, chosen replies first, as two of `(B,)`."""
    chosen, rejected = values.chunk(2)
    return chosen, rejected


def dynamics(chosen: Tensor, rejected: Tensor, ratios: Halves, lengths: Halves, beta: float) -> dict[str, Tensor]:
    """What is watched beside the loss, summed over a batch's pairs; "dpo" is the sigmoid loss, whichever is trained on;
    "chosen_shift": log-probability of a token of the chosen reply against the reference (nats)."""
    rewards = (beta * ratios[0], beta * ratios[1])
    margin = rewards[0] - rewards[1]
    return {
        "dpo": objective.sigmoid(*ratios, beta).sum(),
        "reward_chosen": rewards[0].sum(),
        "reward_rejected": rewards[1].sum(),
        "margin": margin.sum(),
        "accuracy": (margin > 0).sum(),
        "sigma": torch.sigmoid(-margin).sum(),
        "logp_chosen": chosen.sum(),
        "logp_rejected": rejected.sum(),
        "chosen_shift": (ratios[0] / lengths[0]).sum(),
        "chosen_tokens": lengths[0].sum(),
        "rejected_tokens": lengths[1].sum(),
    }


def check_start(row: dict[str, float]) -> None:
    """Before the first update policy and reference are one: the DPO loss is ln 2 and the margin 0, or something is wrong."""
    if not (abs(row["dpo"] - math.log(2)) <= 1e-6 and abs(row["margin"]) <= 1e-6):  # so that nan does not pass
        raise RuntimeError(
            f"Step-0 check failed: DPO loss {row['dpo']:.8f}, expected ln 2 = {math.log(2):.8f}; margin {row['margin']:.2e}, "
            "expected 0. The reference log-probs were not computed by the weights that training starts from, or the model is "
            "not deterministic (dropout?). Nothing was trained."
        )
