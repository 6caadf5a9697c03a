"""`drift explore`: explore.json, explore.html and replies.jsonl."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from drift.compose import CONF
from drift.config import build_part
from drift.console import say, table
from drift.errors import writable
from drift.exploration import tables
from drift.exploration.embedding import model_directory
from drift.exploration.landscape import landscapes
from drift.exploration.measure import Found, measure
from drift.exploration.replies import Pool, draw
from drift.exploration.settings import Exploration
from drift.exploration.subjects import seeds_in
from drift.masking import masked
from drift.records import write_json, write_jsonl, write_text
from drift.report import page
from drift.store import used_together

OURS = (
    "The idea (a reward-weighted density on a map of embedded replies, and the share of its high-reward region that a method "
    "reaches) is that of the DRIFT paper, arXiv 2510.02341, Figures 2 and 3. Embedding model, kernel, region, threshold and "
    "formula are ours, because we do not know the paper's. So these figures can't be compared with its own."
)
LIMITS = (
    "Intervals do not include the choice of the map and the clusters, which are made once from all replies. They are "
    "symmetric and may reach beyond what is possible. Those of differences in coverage are not corrected for their number."
)


def explore(targets: Sequence[str], out: Path | None, overrides: Sequence[str]) -> None:
    """`targets`: folders of runs or studies. `overrides`: settings, NAME=VALUE. Raises `UserError` before any weight is loaded."""
    defaults: Any = OmegaConf.load(CONF / "exploration.yaml")
    seeds = seeds_in(targets, overrides, defaults)
    chosen: Exploration = build_part(seeds[0].config.exploration, "exploration")
    folder = out or Path(targets[0]).expanduser() / "exploration"
    with writable(folder, "--out"):
        folder.mkdir(parents=True, exist_ok=True)
        model = model_directory(chosen)
        users = used_together([seed.store for seed in seeds], folder)
        for seed in seeds:
            seed.store.note(*(path for policy in seed.policies.values() for path in (policy.directory, policy.base)))
        pool = draw(seeds, chosen.num_samples)
        say(f"Rewards: {pool.reward}.")
        found = measure(pool, chosen, seeds[0].store, model)
        write(pool, chosen, found, list(masked(dict(enumerate(overrides))).values()), folder)
        for user in users:
            user.end(finished=True)


def write(pool: Pool, chosen: Exploration, found: Found, given: Sequence[str], folder: Path) -> None:
    """The files, and the main tables on the console."""
    values = vars(chosen) | {"given": list(given)}
    write_json(folder / "explore.json", tables.plain(pool, found) | {"settings": values, "ours": OURS})
    write_jsonl(folder / "replies.jsonl", rows(pool, found))
    levels, changes = tables.replies(pool, found)
    crossed, alone = tables.sensitivity(found)
    first, one_prompt = pool.policy_names[0], [name for name in tables.MEANINGS if name not in tables.REACH]
    sections = [
        ("Coverage", tables.main(pool, found), f"{tables.meanings(tables.REACH)} {LIMITS}"),
        ("Differences in coverage", tables.gaps(found), ""),
        ("Replies to one prompt", levels, tables.meanings(one_prompt)),
        (f"Differences from {first}, paired by prompt", changes, "p is corrected for all differences of this table (Holm)."),
        ("Coverage with other settings: bandwidth, quantile, threshold", crossed, tables.robustness(found)),
        ("Coverage with other settings, one at a time", alone, ""),
        ("Clusters of the embeddings", tables.cluster_rows(pool, found), "Replies of each policy in each cluster, best first."),
    ]
    sections = [section for section in sections if section[1]]
    notes = [tables.verdict(found), tables.robustness(found), *lines(pool, chosen), *pool.notes]
    text = page.render(
        "explore.html.j2", title="Exploration", notes=notes, tables=sections, picture=landscapes(pool, chosen, found),
        settings=[{"setting": name, "value": str(value)} for name, value in values.items()], ours=OURS,
    )  # fmt: skip
    write_text(folder / "explore.html", text)
    for heading, content, _ in sections[:4]:
        say(f"\n{heading}")
        table(content)
    say(f"\n{tables.verdict(found)}\n{tables.robustness(found)}\n{OURS}")
    say(f"Page: {folder / 'explore.html'}\nNumbers: {folder / 'explore.json'}")


def lines(pool: Pool, chosen: Exploration) -> list[str]:
    """What was drawn, and what rewards it."""
    policies = f"{len(pool.policy_names)} policies ({', '.join(pool.policy_names)})"
    return [
        f"{len(pool.texts)} replies: {policies}, {len(pool.records)} prompts, {chosen.num_samples} replies to each; "
        f"{len(pool.seed_names)} seed{'s' if len(pool.seed_names) > 1 else ''}.",
        f"Reward: {pool.reward}.",
    ]


def rows(pool: Pool, found: Found) -> list[dict[str, Any]]:
    """A line for each reply: who said what, its reward, its place and its cluster."""
    return [
        {
            "seed": pool.seed_names[pool.seeds[i]], "policy": pool.policy_names[pool.policies[i]],
            "prompt": list(pool.records[pool.prompts[i]].prompt), "reply": text, "reward": float(pool.rewards[i]),
            "place": [round(float(x), 4) for x in found.places[i]], "cluster": int(found.clusters[i]),
        }
        for i, text in enumerate(pool.texts)
    ]  # fmt: skip
