"""What belongs to a stage's key: every leaf of the config is flipped once on a warm store, and the table says which kinds of
stage must be computed again, no more and no fewer."""

import shutil

import pytest
from conftest import compose, perform
from omegaconf import OmegaConf

pytestmark = pytest.mark.slow

BASE = [
    "model=tiny", "data.num_prompts=8", "iterations=1", "examples_per_iteration=6",
    "train.examples_per_step=2", "train.tokens_per_batch=2000",
    "evaluation.deployment.num_prompts=4", "evaluation.deployment.num_samples=1", "num_perplexity_prompts=0",
    "sampler.group_size=4", "sampler.max_new_tokens=40", "sampler.precision=float32", "sampler.temperature=1.0",
    "sampler.top_p=1.0", "train.precision=float32", "filters.truncated=keep",
]  # fmt: skip
AFTER_TRAIN = {"evaluate", "replies"}
TRAIN = {"train", "same_policy"} | AFTER_TRAIN  # a new policy is compared with what the sampler draws from
ROWS = {"reference"} | TRAIN
PAIRS = {"examples"} | ROWS
ALL = {"feedback"} | PAIRS
TABLE = {
    "seed=1": PAIRS,
    "iterations=2": ALL,  # users judge the first iteration's policy
    "examples_per_iteration=3": PAIRS,
    "previous_share=0.5": set(),  # nothing before the first iteration
    "refresh_log=false": set(),  # from the second iteration on
    "reference=start": set(),  # the same policy in the first iteration
    "method.guidance.share=1": PAIRS,
    "method.guidance.instruction=Again": {"examples"},  # unused at share 0: the same pairs come out
    "filters.copied_words=9": {"examples"},
    "filters.echo=drop": {"examples"},
    "filters.truncated=drop": PAIRS,
    "store.strict=true": set(),
    "store.verify=true": set(),
    "store.lease_seconds=9": set(),
    "store.keep_policies=1": set(),
    "method.rounds=5": {"examples"},
    "method.num_samples=2": PAIRS,
    "sampler.temperature=1.1": ALL,
    "sampler.top_p=0.5": ALL,
    "sampler.max_new_tokens=7": ALL,
    "sampler.max_prompt_tokens=900": {"feedback", "replies", "examples", "evaluate"},  # not the replies
    "sampler.group_size=3": set(),  # float32: the same replies
    "sampler.tokens_per_batch=1": set(),
    "sampler.precision=bfloat16": ALL,
    "train.learning_rate=1e-3": TRAIN,
    "train.optimizer=rmsprop": TRAIN,
    "objective.dpo.weight=0.5": TRAIN,
    "objective.dpo.beta=0.2": TRAIN,
    "objective.nll.weight=0.2": TRAIN,
    "train.epochs=2": TRAIN,
    "train.examples_per_step=4": ROWS,
    "train.tokens_per_batch=1": ROWS,
    "train.tokens_per_batch=auto": {"batch_size", "same_policy"},  # a step of these examples is one batch either way
    "train.layout=padded": ROWS,
    "train.example_order=by_prompt": set(),  # six pairs of six prompts: the same order comes out
    "train.frozen_cache_gib=0": {"reference"},  # the same numbers come out
    "train.warmup_share=0.6": TRAIN,
    "train.final_rate_share=0.1": TRAIN,
    "train.rate_decay=0.5": set(),  # the first iteration has the whole rate: test_runs.py
    "train.max_grad_norm=0.1": TRAIN,
    "train.gradient_checkpointing=true": {"train"},  # the same weights come out
    "train.precision=bfloat16": ROWS,
    "train.adapter.quantization=nf4": ALL,
    "train.signal_every=1": {"train"},  # more metrics, the same weights
    "train.max_tokens=500": {"feedback", "examples"},  # the same records and pairs come out
    "train.checkpoint_every_steps=1": set(),
    "train.strategy=fsdp": set(),  # the same numbers come out, but for rounding: tests/test_parallel.py
    "train.adapter.rank=8": TRAIN,
    "train.adapter.scale=1": TRAIN,
    "train.adapter.top_share=1": ROWS,  # no layer lies below the adapter now: nothing of the reference pass is kept
    "evaluation.deployment.split=validation": AFTER_TRAIN,
    "evaluation.deployment.num_prompts=5": AFTER_TRAIN,
    "evaluation.deployment.num_samples=2": AFTER_TRAIN,
    "num_agreement_records=9": set(),  # DRIFT asks no judge: tests/test_agree.py
    "num_perplexity_prompts=1": {"evaluate", "logprobs"},
    "data.seed=1": ALL,
    "data.num_prompts=9": ALL,
    "data.second_tries=true": {"feedback", "replies", "examples"},  # the same pairs come out
    "data.system=Hi": ALL,
    "data.requests=brief": ALL,
    "data.complaint_rate=0.9": {"feedback", "replies"} | PAIRS,
    "data.praise_rate=0.5": {"feedback"},  # nobody is pleased: the same records come out
    "data.false_praise=0.1": {"feedback"},
    "data.unfounded=0.1": {"feedback", "replies"} | PAIRS,  # nobody is happy, so a tenth of the complaints is missing
    "data.deployed.temperature=1.1": ALL,
    "data.deployed.system=Hi": ALL,
    "model.layers=1": ALL,
    "model.hidden_size=16": ALL,
    "model.weights_seed=1": ALL,
    "model.template.enable_thinking=true": ALL,  # part of the policy, whether its template reads it or not
    "model.cache_dir=ELSEWHERE": set(),  # a copy elsewhere is the same policy
}
ELSEWHERE = {
    **dict.fromkeys(
        [
            "intake.records_per_conversation",
            "intake.max_records",
            "intake.seed",
            "intake.languages",
            "intake.near_duplicates",
            "intake.drop_flagged",
            "intake.redact",
            "intake.leakage",
            "mine.dsat_threshold",
            "mine.sat_threshold",
        ],
        "of logs, which the simulated deployment is not: test_data.py",
    ),
    **dict.fromkeys(
        [
            f"alarms.{name}"
            for name in (
                "action",
                "chosen_shift",
                "entropy_share",
                "copied_share",
                "cut_share",
                "cut_excess",
                "chosen_length_ratio",
                "length_ratio",
                "distinct2_share",
                "missing_ends",
                "perplexity_ratio",
            )
        ],
        "watched, never computed with: test_alarms.py",
    ),
    "filters.judge": "needs a judge: test_reward_model.py, test_preferred.py",
    "plan": "nothing runs: test_plan.py",
    "devices": "in processes of their own: test_ranks.py",
    "store.dir": "where the keys live",
    "data.deployed.policy": "needs a policy: test_runs.py",
    "warmup_epochs": "needs seed pairs: test_runs.py",
    "train.cpu_offload": "for train.strategy=fsdp, where numbers are kept: test_parallel.py",
    "train.parameters": "for full fine-tuning: test_low_memory.py",
    "train.adapter": "null is train=full: test_runs.py",
}


@pytest.fixture(scope="module")
def warm(cache, tmp_path_factory):
    folder = tmp_path_factory.mktemp("warm")
    overrides = [*BASE, f"model.cache_dir={cache}", f"store.dir={folder}/store"]
    perform(folder / "run", *overrides)
    return folder / "store", overrides


JUDGED = {
    "method.judge.seed=1": {"judge"} | PAIRS,
    "method.judge.noise=0.1": {"judge", "examples"},
    "method.judge.group_size=2": set(),
}  # replies that are all wrong have the noise's order at any scale


def test_a_judge_belongs_to_the_pairs_of_the_method_that_asks_it(warm, tmp_path):
    """Of IterDPO, whose samples it ranks; DRIFT takes none: tests/test_config.py."""
    store, overrides = warm
    shutil.copytree(store, tmp_path / "store")
    common = [*(item for item in overrides if not item.startswith("store.dir")), "method=iterdpo", f"store.dir={tmp_path}/store"]
    perform(tmp_path / "first", *common)
    for i, flip in enumerate(JUDGED):
        state = perform(tmp_path / str(i), *common, flip)
        assert {stage["name"] for stage in state["stages"] if not stage["hit"]} == JUDGED[flip], flip


@pytest.mark.parametrize("flip", TABLE)
def test_changing_a_setting_recomputes_exactly_the_stages_that_depend_on_it(flip, warm, tmp_path):
    store, overrides = warm
    shutil.copytree(store, tmp_path / "store")
    flip_now = flip.replace("ELSEWHERE", f"{tmp_path}/models")
    rest = [item for item in overrides if item.split("=")[0] not in (flip.split("=")[0], "store.dir")]
    state = perform(tmp_path / "run", *rest, flip_now, f"store.dir={tmp_path}/store")
    assert {stage["name"] for stage in state["stages"] if not stage["hit"]} == TABLE[flip]


OBJECTIVES = [
    "[dpo]",
    "[nll]",
    "[hinge,nll]",
    "[robust,nll]",
    "[ipo,nll]",
    "[dpo_norm,nll]",
]  # dpop is DPO until a chosen reply has lost


@pytest.mark.parametrize("chosen", OBJECTIVES)
def test_another_objective_trains_again_on_the_same_plan(chosen, warm, tmp_path):
    store, overrides = warm
    shutil.copytree(store, tmp_path / "store")
    rest = [item for item in overrides if not item.startswith("store.dir")]
    state = perform(tmp_path / "run", *rest, f"objective={chosen}", f"store.dir={tmp_path}/store")
    assert {stage["name"] for stage in state["stages"] if not stage["hit"]} == TRAIN


def test_the_key_table_covers_every_setting():
    config = compose(*BASE)

    def leaves(node, path):
        if not OmegaConf.is_dict(node):
            return [path]
        raw = [key for key in node if not str(key).startswith("_") and not OmegaConf.is_interpolation(node, key)]
        return [leaf for key in raw for leaf in leaves(node[key], f"{path}.{key}".strip("."))]

    covered = {flip.split("=")[0] for flip in TABLE} | set(ELSEWHERE)
    assert set(leaves(config, "")) - covered == set()
