"""The settings of `drift explore`; every value stands in conf/exploration.yaml."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Literal

from omegaconf import DictConfig

from drift.config import build_part
from drift.errors import UserError, nearest, need_package

CROSSED = ("bandwidth", "quantile", "threshold")  # are varied together, because a map need not be made again for them
ALONE = ("grid", "neighbours", "dimensions", "centre", "seed", "min_distance", "metric", "rewards")


@dataclass(frozen=True, kw_only=True)
class Exploration:
    """See the comments in conf/exploration.yaml. `sensitivity`: setting -> other values of it."""

    num_prompts: int | None
    num_samples: int
    path: str | None
    cache_dir: str | None
    max_tokens: int
    centre: Literal["none", "prompt"]
    metric: Literal["cosine", "euclidean"]
    neighbours: int
    min_distance: float
    dimensions: Literal[2, 3]
    seed: int
    rewards: Literal["range", "ranks"]
    bandwidth: float
    grid: int
    quantile: float
    threshold: float
    clusters: int
    least_replies: int
    sensitivity: dict[str, list[Any]]

    def check(self) -> None:
        for package in ("umap", "sklearn", "nltk"):
            need_package(package, "drift explore", extra="exploration")
        for name, least in (("num_samples", 2), ("max_tokens", 8), ("neighbours", 2), ("grid", 2), ("clusters", 2)):
            if getattr(self, name) < least:
                raise UserError(f"exploration.{name}={getattr(self, name)}: expected at least {least}.")
        if (self.num_prompts is not None and self.num_prompts < 1) or self.least_replies < 1:
            raise UserError("exploration.num_prompts and exploration.least_replies must be at least 1.")
        if not 0 < self.quantile < 1 or self.bandwidth <= 0 or self.threshold <= 0 or not 0 <= self.min_distance <= 1:
            raise UserError(
                "exploration: expected quantile between 0 and 1, bandwidth and threshold above 0, and min_distance from 0 to 1."
            )
        for wrong in (name for name in self.sensitivity if name not in (*CROSSED, *ALONE)):
            raise UserError(f"exploration.sensitivity.{wrong} can't be varied.{nearest(wrong, (*CROSSED, *ALONE))}")

        for name in (name for name, values in self.sensitivity.items() if not isinstance(values, list)):
            raise UserError(f"exploration.sensitivity.{name}={self.sensitivity[name]}: expected a list of other values, [a, b].")

    def crossed(self) -> Iterator[tuple[dict[str, Any], "Exploration"]]:
        """(the values, the settings with them) for every combination of those that need no other map."""
        values = {name: self.sensitivity.get(name, [getattr(self, name)]) for name in CROSSED}
        for row in product(*values.values()):
            changed = dict(zip(values, row, strict=True))
            yield changed, replace(self, **changed)

    def alone(self) -> Iterator[tuple[dict[str, Any], "Exploration"]]:
        """The same for each value of the other settings by itself."""
        for name in ALONE:
            for value in self.sensitivity.get(name, []):
                yield {name: value}, replace(self, **{name: value})


def check_varied(config: DictConfig) -> None:
    """Refuses other values that the setting itself can't have. `config`: the settings, checked."""
    for name, values in config.sensitivity.items():
        for value in values:
            try:
                varied = config.copy()
                varied[name], varied.sensitivity = value, {}
                build_part(varied, "exploration")
            except UserError as error:
                raise UserError(f"exploration.sensitivity.{name}: {error}") from error
