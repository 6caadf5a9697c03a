"""Low-rank adapters (arXiv 2106.09685) on all linear modules of the top layers, over weights that may be quantised.

The experts of a mixture are stacked weights, not linear modules: they are not adapted, and the run says so."""

from dataclasses import dataclass
from typing import Any

from drift.console import say
from drift.errors import UserError, need_package
from drift.model.policy import Quantization


@dataclass(frozen=True, kw_only=True)
class Lora:
    """`scale` = alpha / rank. `top_share`: the share of the layers, from the top, that get an adapter. `quantization`: that of the
    frozen weights (nf4: four bits with double quantisation, as in QLoRA)."""

    rank: int
    scale: float
    top_share: float
    quantization: Quantization

    def check(self) -> None:
        if self.rank < 1 or not 0 < self.top_share <= 1 or not self.scale > 0:
            raise UserError("train.adapter: expected rank >= 1, 0 < top_share <= 1 and scale > 0.")
        if self.quantization != "none":
            need_package("bitsandbytes", f"train.adapter.quantization={self.quantization}", extra="bitsandbytes")

    def layers(self, num_layers: int) -> range:
        """The layers that get an adapter: at least one."""
        return range(num_layers - max(1, round(num_layers * self.top_share)), num_layers)

    def attach(self, model: Any) -> Any:
        """The model with a new float32 adapter, which changes nothing yet (B is zero)."""
        import torch
        from peft import LoraConfig, get_peft_model

        linear = {name.rsplit(".", 1)[-1] for name, part in model.named_modules() if isinstance(part, torch.nn.Linear)}
        linear.discard("lm_head")
        if not linear:
            raise UserError(f"train=lora: a {model.config.model_type} model has no linear modules to adapt. Use train=full.")
        if note := not_adapted(model):
            say(f"  Note: LoRA trains {', '.join(sorted(linear))}; {note}.")
        config = LoraConfig(
            r=self.rank,
            lora_alpha=self.scale * self.rank,  # type: ignore[arg-type]
            lora_dropout=0.0,
            target_modules=sorted(linear),
            layers_to_transform=list(self.layers(model.config.num_hidden_layers)),
            task_type="CAUSAL_LM",
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # every method and seed starts from the same adapter
            model = get_peft_model(model, config)
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.data = parameter.data.float()
        return model


def not_adapted(model: Any) -> str:
    """Names the matrices that LoRA does not adapt, with their share of all matrices; "" if there are none."""
    import torch

    def matrices(part: Any) -> dict[str, int]:
        return {name: weight.numel() for name, weight in part.named_parameters(recurse=False) if weight.dim() > 1}

    other: dict[str, int] = {}
    total = 0
    for path, part in model.named_modules():
        if isinstance(part, torch.nn.Embedding):
            continue
        sizes = matrices(part)
        total += sum(sizes.values())
        if not isinstance(part, torch.nn.Linear):
            for name, size in sizes.items():
                last = f"{path.rpartition('.')[2]}.{name}"
                other[last] = other.get(last, 0) + size
    if not other:
        return ""
    return f"{', '.join(sorted(other))} ({sum(other.values()) / total:.0%} of the matrices) stay as they are, unquantised"
