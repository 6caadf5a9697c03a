"""`drift evaluate`: benchmarks in full, on the policies of runs and on any models, in one table.

All policies get the same prompts, settings and noise, so their differences are paired. Replies and scores are stages of the store:
a killed command continues where it was, and what a run has evaluated with the same settings is not computed again. It writes

    benchmarks.md   benchmarks.csv   POLICY/BENCHMARK/{scores.json, replies.jsonl}
"""

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from omegaconf import OmegaConf

from drift.compose import compose
from drift.config import build, check_node
from drift.console import say, table
from drift.engine.ask import Ask
from drift.engine.same_policy import same_policy_stage
from drift.errors import UserError, nearest, writable
from drift.evaluation import BENCHMARKS
from drift.evaluation.stage import evaluation_stage, longest_sampled, sampler_of
from drift.journal import link_scores
from drift.loop import Run
from drift.model.files import HOW_BACK, lacks_weights
from drift.model.policy import Policy, policy_at
from drift.model.pretrained import Pretrained
from drift.records import write_text
from drift.report import benchmarks, foreign, state
from drift.report.benchmarks import Scored
from drift.report.foreign import SETTINGS, Reader, need_members
from drift.report.results import write_csv
from drift.report.state import RUN, Scores
from drift.start import check_sampled
from drift.train.batch_size import numbered

Which = Literal["all", "last"]
BENCHMARKS_FOLDER, TABLE = foreign.BENCHMARKS.split("/")


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A policy to evaluate. `start`: the start model of its run, or itself: the perplexity of its replies is measured under it."""

    name: str
    policy: Policy
    start: Policy


def evaluate(targets: Sequence[str], names: Sequence[str], which: Which, out: Path | None, overrides: Sequence[str]) -> None:
    """`targets`: folders of runs or sweeps, model or policy directories, hub ids in the cache; `which`: of a run's policies, all or
    the last one, besides its start model. Raises `UserError` before any weight is loaded."""
    for wrong in (name for name in names if name not in BENCHMARKS):
        raise UserError(f"--on {wrong}: there is no such benchmark.{nearest(wrong, BENCHMARKS)}")
    whole = [f"evaluation.{name}.num_prompts=null" for name in names]
    run = build(compose([f"evaluation=[{','.join(names)}]", *whole, *overrides]))
    named = [one for target in targets for one in runs_in(target)]
    candidates = without_repeats([found for target in named for found in candidates_of(target, run, which, len(named) > 1)])
    for candidate in candidates:
        check_sampled(candidate.policy, longest_sampled(run.sampler, run.evaluation.values()))
    own = (Path(target).expanduser() for target in targets)
    folder = out or next((place / BENCHMARKS_FOLDER for place in own if (place / RUN).exists() or is_sweep(place)), None)
    if folder is None:
        raise UserError("Where shall the scores go? Add --out FOLDER (for a run or a sweep, the default is benchmarks/ in it).")
    with writable(folder, "--out"):
        folder.mkdir(parents=True, exist_ok=True)
        user = run.store.used_by(folder)
        run.store.note(*(path for one in candidates for path in (one.policy.directory, one.policy.base, one.start.base)))
        measure(run, candidates, folder)
        user.end(finished=False)  # other benchmarks may be asked for the same folder


def measure(run: Run, candidates: Sequence[Candidate], folder: Path) -> None:
    """Evaluates all; the tables are written anew after every evaluation, with those of other benchmarks from earlier commands."""
    before, scored = earlier(folder, run.evaluation), list[Scored]()
    about = {name: evaluation.outlook([], []) for name, evaluation in run.evaluation.items()}
    notes = [line for lines in about.values() for line in lines]
    for line in notes:
        say(f"  {line}")
    for candidate in candidates:
        compute = numbered(run.train, candidate.start, run.store).compute
        for name, evaluation in run.evaluation.items():
            say(f"{candidate.name}: {name}")
            ask = Ask(
                sampler=sampler_of(evaluation, run.sampler), compute=compute, store=run.store, start=candidate.start,
                policy=candidate.policy, seed=evaluation.noise_seed, purpose="evaluation", iteration=0,
            )  # fmt: skip
            if evaluation.samples:
                say(f"  {same_policy_stage(ask, {'the start model': candidate.start}).facts['found']}")
            stage = evaluation_stage(ask, evaluation, [], run.num_perplexity_prompts)
            place = place_of(folder, candidate.name, name)
            scored.append(
                Scored(
                    policy=candidate.name, directory=candidate.policy.directory, benchmark=name,
                    scores=state.scores(link_scores(stage, place)), folder=place, about=" ".join(about[name]),
                )
            )  # fmt: skip
            everything = [*before, *scored]
            figures = benchmarks.ratings(everything)
            write_csv(folder / TABLE, benchmarks.rows(everything, figures))
            write_text(
                folder / "benchmarks.md",
                benchmarks.page(everything, figures, [*notes, *dict.fromkeys(one.about for one in before)]),
            )
    for name, rows in benchmarks.tables(scored, benchmarks.ratings(scored)).items():
        say(f"\n{name}")
        table(rows)
    say(f"\nTables: {folder / 'benchmarks.md'}, {folder / TABLE}")


def place_of(folder: Path, policy: str, benchmark: str) -> Path:
    """Where the scores of a policy are."""
    return folder / re.sub(r"[^A-Za-z0-9_.-]+", "_", policy) / benchmark


def earlier(folder: Path, names: Collection[str]) -> list[Scored]:
    """What earlier commands measured in this folder, but for the benchmarks `names`, which are measured anew. Scores that are not
    there any more, or of another version, are left out."""
    found = dict[tuple[str, str], Scored]()
    reader = Reader()
    for row in reader.table(folder, TABLE):
        policy, benchmark = row.get("policy") or "", row.get("benchmark") or ""
        if benchmark not in BENCHMARKS or benchmark in names or (policy, benchmark) in found:
            continue
        place = place_of(folder, policy, benchmark)
        if (scores := reader.json(place, "scores.json", Scores)) is not None:
            found[policy, benchmark] = Scored(
                policy=policy, directory=Path(row.get("directory") or ""), benchmark=benchmark, scores=scores, folder=place,
                about=row.get("about") or "",
            )  # fmt: skip
    return list(found.values())


def is_sweep(folder: Path) -> bool:
    return not (folder / RUN).exists() and any(folder.glob(f"*/{RUN}"))


def runs_in(target: str) -> list[str]:
    """The runs of a sweep; of anything else, itself."""
    folder = Path(target).expanduser()
    return [str(member.folder) for member in need_members(Reader(), folder)] if is_sweep(folder) else [target]


def candidates_of(target: str, run: Run, which: Which, several: bool) -> Iterator[Candidate]:
    """The policies of a run's folder, the start model first; or a model. `several`: there are other targets, so a run's policies
    are named after its folder too."""
    folder = Path(target).expanduser()
    if not (folder / RUN).exists():
        model = Pretrained(path=target, revision=None, template=run.model.template)
        model.check()
        policy = policy_at(directory := model.directory(), template=run.model.template)
        name = "/".join(directory.parts[-2:]) if directory.name == "policy" else directory.name
        yield Candidate(name=name if folder.is_dir() else target, policy=policy, start=policy)
        return
    reader = Reader()
    (member,) = need_members(reader, folder)
    start = start_of(folder, reader)
    trained = [point for point in member.state.points if point.name != "start"]
    if member.state.status != "finished":
        say(f"Note: {target} is not finished ({member.state.status}): it has {len(trained)} trained policies so far.")
    prefix = f"{folder.resolve().name} " if several else ""
    yield Candidate(name=f"{prefix}start", policy=start, start=start)
    for point in trained if which == "all" else trained[-1:]:
        directory = folder / f"iteration_{point.iteration}" / "policy"
        if not directory.is_dir():
            raise UserError(f"{directory} is not there: was the store moved or deleted? Put it back, or run again.")
        if lacks_weights(directory):
            say(f"Note: {prefix}{point.name} is left out, because its weights were removed to save disk. {HOW_BACK}")
            continue
        yield Candidate(name=f"{prefix}{point.name}", policy=policy_at(directory, template=start.template), start=start)


def start_of(folder: Path, reader: Reader) -> Policy:
    """The start model of a run, by the settings in its folder."""
    settings: Any = OmegaConf.create(reader.text(folder, SETTINGS) or "{}")
    model = settings.get("model")
    if model is None or not str(model.get("_target_")).startswith("drift.model."):
        raise UserError(
            f"{folder / SETTINGS} does not name a start model of this program. Name directories instead: the model's, and "
            f"{folder}/iteration_1/policy."
        )
    from hydra.utils import instantiate

    check_node(model, "model")
    adapter = settings.train.get("adapter")
    built = instantiate(model, _convert_="all")
    return policy_at(built.directory(), adapter.quantization if adapter else "none", built.template)


def without_repeats(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Every policy once (runs may share a start model), and no name twice."""
    kept: dict[str, Candidate] = {}
    for candidate in candidates:
        if candidate.policy.fingerprint not in kept:
            same = sum(re.fullmatch(rf"{re.escape(candidate.name)}( \d+)?", one.name) is not None for one in kept.values())
            name = f"{candidate.name} {same + 1}" if same else candidate.name
            kept[candidate.policy.fingerprint] = replace(candidate, name=name)
    return list(kept.values())
