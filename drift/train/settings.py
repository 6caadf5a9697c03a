"""How a policy is trained: the settings of the `train` group, and which of them belong to a stage's key."""

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from drift.errors import UserError, need_package
from drift.model import precision
from drift.score.sequence import Compute, Layout
from drift.train.lora import Lora

Strategy = Literal["ddp", "fsdp"]


@dataclass(frozen=True, kw_only=True)
class Train:
    """How a policy is trained. conf/train.yaml and conf/train/*.yaml explain each setting and its unit."""

    learning_rate: float
    optimizer: Literal["adamw", "adamw_8bit", "rmsprop"]
    epochs: int
    examples_per_step: int
    example_order: Literal["shuffled", "by_prompt"]
    layout: Layout
    tokens_per_batch: int | Literal["auto"]
    frozen_cache_gib: float
    warmup_share: float
    final_rate_share: float
    rate_decay: float
    max_grad_norm: float
    gradient_checkpointing: bool
    precision: precision.Precision
    parameters: Literal["float32", "bfloat16"]
    max_tokens: int
    signal_every: int
    checkpoint_every_steps: int
    strategy: Strategy
    cpu_offload: bool
    adapter: Lora | None

    def check(self) -> None:
        for name in ("epochs", "examples_per_step", "tokens_per_batch", "max_tokens", "checkpoint_every_steps"):
            if (value := getattr(self, name)) != "auto" and value < 1:
                raise UserError(f"train.{name}={value}: expected at least 1.")
        if not (0 < self.learning_rate < math.inf and self.max_grad_norm > 0 and 0 < self.rate_decay <= 1):
            raise UserError("train: expected learning_rate and max_grad_norm above 0, and rate_decay above 0 and at most 1.")
        for name in ("frozen_cache_gib", "signal_every"):
            if getattr(self, name) < 0:
                raise UserError(f"train.{name}={getattr(self, name)}: expected at least 0.")
        if not (0 <= self.warmup_share < 1 and 0 <= self.final_rate_share <= 1):
            raise UserError("train: expected warmup_share in [0, 1) and final_rate_share in [0, 1].")
        if self.parameters == "bfloat16" and (self.adapter is not None or precision.resolve(self.precision) == "float32"):
            raise UserError(
                "train.parameters=bfloat16 is for full fine-tuning computed in bfloat16: an adapter is small and stays float32, "
                "and train.precision=float32 needs float32 weights. Set train.parameters=float32."
            )
        if self.optimizer == "adamw_8bit":
            need_package("bitsandbytes", "train.optimizer=adamw_8bit", extra="bitsandbytes")
        if self.adapter is not None:
            self.adapter.check()

    def check_devices(self, devices: int) -> None:
        """Refuses what can't be divided among several devices."""
        if self.cpu_offload and self.strategy != "fsdp":
            raise UserError("train.cpu_offload=true is for train.strategy=fsdp: with ddp every device has all weights.")
        if devices == 1 or self.strategy == "ddp":
            return
        if self.adapter is not None and self.adapter.quantization != "none":
            raise UserError(
                "train.strategy=fsdp can't divide weights of four bits among devices. Use train.strategy=ddp, which gives every "
                "device all of them, or train=lora."
            )
        if self.optimizer == "adamw_8bit":
            raise UserError(
                "train.strategy=fsdp can't divide the moments of adamw_8bit, which share scales. Use train.optimizer=adamw or "
                "rmsprop, whose numbers are divided among the devices, or train.strategy=ddp."
            )

    def at(self, iteration: int) -> "Train":
        """The settings of an iteration."""
        return replace(self, learning_rate=self.learning_rate * self.rate_decay ** max(0, iteration - 1))

    def key(self) -> dict[str, Any]:
        """The settings that a trained policy depends on, given its plan."""
        excluded = {
            "examples_per_step",
            "example_order",
            "layout",
            "tokens_per_batch",
            "frozen_cache_gib",
            "max_tokens",
            "rate_decay",
            "checkpoint_every_steps",
            "strategy",
            "cpu_offload",
        }  # part of the plan or of the learning rate, or without effect
        settings = {name: value for name, value in asdict(self).items() if name not in excluded}
        return settings | {"precision": precision.resolve(self.precision)}

    @property
    def rounds_updates_away(self) -> bool:
        """Whether most updates are too small for the format of the trained weights."""
        return self.parameters == "bfloat16" and self.learning_rate < precision.LEAST_BFLOAT16_RATE

    @property
    def formats(self) -> tuple[Literal["32-true", "bf16-mixed"], Literal["float32", "bfloat16"]]:
        """(the precision by its name in Lightning, the format of the weights). In bfloat16, full training keeps float32 weights and
        uses autocast, unless `parameters` is bfloat16; with an adapter the frozen base is bfloat16."""
        if precision.resolve(self.precision) == "float32":
            return "32-true", "float32"
        if self.adapter is not None or self.parameters == "bfloat16":
            return "32-true", "bfloat16"
        return "bf16-mixed", "float32"

    @property
    def compute(self) -> Compute:
        lightning, dtype = self.formats
        assert self.tokens_per_batch != "auto", "train/batch_size.py puts a number in its place"
        shape = {"layout": self.layout, "tokens_per_batch": self.tokens_per_batch, "max_tokens": self.max_tokens}
        return Compute(lightning=lightning, dtype=dtype, **shape)
