"""The pictures: the density of all replies and of each policy on the map, with the border of the high-reward region."""

from typing import Any

import numpy as np

from drift.exploration import density
from drift.exploration.measure import Found, by_prompt
from drift.exploration.replies import Pool
from drift.exploration.settings import Exploration
from drift.report import plots

LEVELS, COLUMNS = 9, 3


def landscapes(pool: Pool, settings: Exploration, found: Found) -> str:
    """An <svg> element with a panel for all replies and one for each policy, in one colour scale; seeds are averaged. Of a map with
    three dimensions, the sum over the third is drawn."""
    whole = np.mean([row.sum(axis=0) for row in by_prompt(pool, settings, found.places, found.weights)], axis=0)  # (M, G)
    inside, _ = density.region(whole, settings.quantile)
    flat = [drawn(values, settings) for values in (whole.mean(axis=0), *whole)]
    border = drawn(inside.astype(float), settings).clip(max=1.0)
    axes = density.axes_of(found.places, settings.grid)
    names = ["all policies", *pool.policy_names]
    rows = -(-len(names) // COLUMNS)
    levels = np.linspace(0, max(float(values.max()) for values in flat), LEVELS + 1)
    with plots.drawing(rows=rows, columns=COLUMNS, size=(9.6, 3.0 * rows)) as (grid, svg):
        panels = grid.flat
        for panel in panels[len(names) :]:
            panel.set_visible(False)
        for i, (panel, name, values) in enumerate(zip(panels, names, flat, strict=False)):
            panel.contourf(axes[0], axes[1], values.T, levels=levels, cmap="Blues")
            panel.contour(axes[0], axes[1], border.T, levels=[0.5], colors="#c0392b", linewidths=0.9)
            replies = np.ones(len(pool.texts), bool) if i == 0 else pool.policies == i - 1
            shown = found.places[replies][:: max(1, int(replies.sum()) // 300)]
            panel.plot(shown[:, 0], shown[:, 1], ".", color="#1c2430", markersize=1.2, alpha=0.5)
            covered = f": coverage {found.coverage[name].mean:.3f}" if i else ""
            panel.set_title(plots.name_of(name)[: plots.MAX_TITLE] + covered, fontsize=9, loc="left")
            panel.set_xticks([])
            panel.set_yticks([])
    return svg[0]


def drawn(values: Any, settings: Exploration) -> Any:
    """(grid, grid): of a flat density, or its sum over a third dimension."""
    shaped = values.reshape((settings.grid,) * settings.dimensions)
    return shaped.sum(axis=2) if settings.dimensions == 3 else shaped
