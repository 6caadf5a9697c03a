"""What is explored: of every seed of a study, the last policy of each method and the start model, on one set of prompts.

Everything is rebuilt from the runs' folders: parts from config.yaml, held-out records from records.jsonl. The folder may come from
somebody else, so only parts of this program are built."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from drift.config import build_part
from drift.console import say
from drift.engine.ask import Ask
from drift.errors import UserError, nearest
from drift.evaluate import start_of
from drift.evaluation.deployment import Deployment
from drift.evaluation.heldout import Heldout
from drift.exploration.settings import Exploration, check_varied
from drift.model.policy import Policy, policy_at
from drift.overrides import quote_paths, unreadable
from drift.records import Record, digest
from drift.report.foreign import SETTINGS, Reader, need_members
from drift.report.members import grouped, seeds_of
from drift.report.state import Member
from drift.start import check_sampled
from drift.store import Store
from drift.train.batch_size import numbered

START = "start"
KEPT = ("sampler", "store", "train", "evaluation", "method", "filters")  # settings of a run that are used
GIVEN = ("exploration", "sampler", "store", "judge")  # those that can be given on the command line


@dataclass(frozen=True, kw_only=True)
class Seed:
    """`name`: the seeds in words; `records`: the prompts, with a truth if it is known; `policies`: name -> policy, the start model
    first; `store`: its first run's; `config`: the settings of that run and those of the exploration."""

    name: str
    records: list[Record]
    policies: dict[str, Policy]
    noise_seed: int
    store: Store
    config: DictConfig

    def ask(self, policy: Policy) -> Ask:
        """The service through which a policy's replies are drawn and judged."""
        parts, start = {name: build_part(self.config[name], name) for name in ("sampler", "train")}, self.policies[START]
        compute = numbered(parts["train"], start, self.store).compute
        return Ask(
            sampler=parts["sampler"], compute=compute, store=self.store, start=start, policy=policy, seed=self.noise_seed,
            purpose="exploration", iteration=0,
        )  # fmt: skip


def seeds_in(targets: Sequence[str], overrides: Sequence[str], defaults: DictConfig) -> list[Seed]:
    """The seeds that every method of the runs has. `defaults`: conf/exploration.yaml."""
    reader = Reader()
    members = [member for target in targets for member in need_members(reader, Path(target).expanduser())]
    groups = {label: {seeds_of(member.state): member for member in group} for label, group in grouped(members).items()}
    names = list(dict.fromkeys(seed for group in groups.values() for seed in group))
    common = [seed for seed in names if all(seed in group for group in groups.values())]
    if not common:
        raise UserError(f"No seed has a run of each of {', '.join(groups)}. Expected the runs of one study.")
    if left := [told(seed) for seed in names if seed not in common]:
        say(f"Note: not every method has a run with {'; '.join(left)}: left out.")
    found = []
    for seed in common:
        runs = {label: group[seed] for label, group in groups.items()}
        found.append(seed_of(told(seed), runs, reader, overrides, defaults))
    for problem in reader.problems.values():
        say(f"Note: {problem}")
    need_equal([seed.config.sampler for seed in found], "sampler")
    return found


def need_equal(nodes: Sequence[Any], name: str) -> None:
    """Refuses runs that differ in these settings."""
    if len({digest(OmegaConf.to_container(node)) for node in nodes}) > 1:
        raise UserError(
            f"The runs differ in {name}.…, so their replies can't be compared. Explore those with the same settings, or give the "
            f"settings for all of them here: {name}.NAME=VALUE."
        )


def told(seeds: Sequence[str]) -> str:
    """('1', '') -> 'seed=1': the seeds in words."""
    return ", ".join(f"{key}={value}" for key, value in zip(("seed", "data.seed"), seeds, strict=True) if value) or "the only seed"


def seed_of(name: str, members: dict[str, Member], reader: Reader, overrides: Sequence[str], defaults: DictConfig) -> Seed:
    """One run of each method, with the same seeds."""
    policies: dict[str, Policy] = {}
    sets: dict[str, tuple[list[Record], int]] = {}
    given = parsed(overrides)
    settings = {label: settings_of(member.folder, reader, defaults) for label, member in members.items()}
    own = {digest(OmegaConf.to_container(judge)): judge for config in settings.values() if (judge := judge_in(config)) is not None}
    judge = next(iter(own.values()), None)
    configs = {label: with_given(config, judge, given) for label, config in settings.items()}
    need_equal([config.sampler for config in configs.values()], "sampler")
    for label, member in members.items():
        start, config = start_of(member.folder, reader), configs[label]
        known = policies.setdefault(START, start)
        if known.fingerprint != start.fingerprint:
            raise UserError(f"The runs of {', '.join(members)} have different start models. Explore those with the same one.")
        policies[label] = last_policy(member, start)
        sets[label] = prompts_of(member.folder, config, reader)
    if len({digest([[list(record.prompt), record.truth] for record in records]) for records, _ in sets.values()}) > 1:
        raise UserError(f"The runs of {', '.join(members)} ({name}) are evaluated on different prompts, so they can't be compared.")
    config = next(iter(configs.values()))
    chosen: Exploration = build_part(config.exploration, "exploration")
    check_varied(config.exploration)
    records, noise_seed = next(iter(sets.values()))
    if len(own) > 1 and not config.judge_given and any(record.truth is None for record in records):
        raise UserError(f"The runs of {', '.join(members)} have different judges. Name the one that gives the rewards: judge=NAME.")
    store: Store = build_part(config.store, "store")
    kept = records[: chosen.num_prompts]
    seed = Seed(name=name, records=kept, policies=policies, noise_seed=noise_seed, store=store, config=config)
    sampler = build_part(config.sampler, "sampler")
    for policy in policies.values():
        check_sampled(policy, sampler.max_prompt_tokens + sampler.max_new_tokens)
    return seed


def last_policy(member: Member, start: Policy) -> Policy:
    trained = [point for point in member.state.points if point.iteration > 0]
    if not trained:
        raise UserError(
            f"{member.folder} has no trained policy yet ({member.state.status}). Let it finish, or leave it out: "
            f"drift explore RUN RUN …, with the folders of the others."
        )
    if member.state.status != "finished":
        say(f"Note: {member.folder} is not finished ({member.state.status}): its last policy so far is used.")
    directory = member.folder / f"iteration_{trained[-1].iteration}" / "policy"
    if not directory.is_dir():
        raise UserError(f"{directory} is not there: was the store moved or deleted? Put it back, or run again.")
    return policy_at(directory, template=start.template)


def settings_of(folder: Path, reader: Reader, defaults: DictConfig) -> DictConfig:
    """The run's settings, and those of the exploration."""
    whole: Any = OmegaConf.create(reader.text(folder, SETTINGS) or "{}")
    config: Any = OmegaConf.create({name: whole[name] for name in KEPT if name in whole} | {"exploration": defaults})
    if missing := [name for name in KEPT if name not in config]:
        raise UserError(f"{folder / SETTINGS} lacks {missing[0]}: it is not what a run of this version writes.")
    refuse_foreign(config, folder)
    return config


def judge_in(config: DictConfig) -> Any:
    """The judge of a run: its method's, else that of its filters, else None."""
    return config.method.get("judge") or config.filters.get("judge")


def with_given(config: DictConfig, judge: Any, given: Sequence[Any]) -> DictConfig:
    """Settings with the user's, `judge` being the runs' own one; `judge_given`: whether the user said anything about it."""
    from omegaconf.errors import OmegaConfBaseException

    about_judge = [item.key_or_group.partition(".")[0] == "judge" for item in given]
    config = OmegaConf.merge(config, {"judge": judge, "judge_given": any(about_judge)})  # type: ignore[assignment]
    OmegaConf.set_struct(config, True)
    for item in sorted(given, key=lambda item: item.key_or_group != "judge"):  # which judge, before its settings
        key, value = item.key_or_group, item.value()
        if key.partition(".")[0] not in GIVEN:
            raise UserError(f"{key}: expected a setting of {', '.join(GIVEN)}; the rest is the runs' own.")
        if key in GIVEN and key != "judge":
            raise UserError(f"{key}={value}: expected its settings one by one, {key}.NAME=VALUE.")
        if key == "judge":
            from drift.compose import compose

            value = compose(["method=iterdpo", f"judge={value}"]).method.judge
        try:
            OmegaConf.update(config, key, value, merge=False, force_add=item.is_add() or item.is_force_add())
        except OmegaConfBaseException as error:
            group, _, name = key.rpartition(".")
            known = OmegaConf.select(config, group)
            hint = nearest(name, map(str, known)) if OmegaConf.is_dict(known) else ""
            raise UserError(f"Unknown key {key}.{hint}") from error
    return config


def parsed(overrides: Sequence[str]) -> Any:
    """The user's settings, as Hydra reads them."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import OverrideParseException

    try:
        return OverridesParser.create().parse_overrides(quote_paths(overrides))
    except OverrideParseException as error:
        raise UserError(unreadable(error)) from error


def refuse_foreign(node: Any, folder: Path) -> None:
    """Refuses settings that name a part from outside this program: a folder from somebody else could name any function."""
    if OmegaConf.is_dict(node):
        if "_target_" in node and not str(node["_target_"]).startswith("drift."):
            raise UserError(f"{folder / SETTINGS} names {node['_target_']}, a part from outside this program, which is not built.")
        for key in node:
            refuse_foreign(node._get_node(key), folder)
    elif OmegaConf.is_list(node):
        for item in node:
            refuse_foreign(item, folder)


def prompts_of(folder: Path, config: DictConfig, reader: Reader) -> tuple[list[Record], int]:
    """(the evaluation prompts of a run, in a fixed order; the seed of the noise of their replies): those of the first evaluation
    that is the deployment's or on held-out records."""
    records = reader.records(folder, "records.jsonl")
    for name in config.evaluation:
        evaluation = build_part(config.evaluation[name], f"evaluation.{name}")
        records, held_out = evaluation.separate(records)
        if isinstance(evaluation, Deployment):
            tasks = evaluation.data.tasks(evaluation.split, evaluation.num_prompts)
            return [prompt_only(task.key, task.prompt, task.truth) for task in tasks], evaluation.noise_seed
        if isinstance(evaluation, Heldout) and held_out:
            first = {digest(list(record.prompt)): record for record in sorted(held_out, key=lambda record: record.key)}
            return [prompt_only(one.conversation, one.prompt, one.truth) for one in first.values()], evaluation.noise_seed
    raise UserError(f"{folder}: expected a run with evaluation=deployment or evaluation=heldout, whose prompts are explored.")


def prompt_only(conversation: str, prompt: Any, truth: dict[str, str] | None) -> Record:
    """A record without a logged reply."""
    unused: dict[str, Any] = {"reply": "", "ended": True, "feedback": None, "revised": None, "satisfied": False, "provenance": None}
    return Record(
        id=digest(list(prompt))[:12], conversation=conversation, prompt=list(prompt), truth=truth, label="silent", **unused
    )
