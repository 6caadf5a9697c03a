"""`drift explore` on runs of the tiny model, from their folders to the page; a second call computes nothing; what is refused."""

import json
import os
import re
import shutil
from importlib.util import find_spec

import pytest
from conftest import SMALL, compose, feedback_file, perform
from omegaconf import OmegaConf

from drift.__main__ import dispatch
from drift.errors import UserError
from drift.exploration.replies import NONE, TRUTH, judge_of
from drift.exploration.subjects import parsed, refuse_foreign, seeds_in, settings_of, with_given
from drift.report.foreign import Reader
from drift.store.inventory import take_stock

os.environ["NUMBA_DISABLE_JIT"] = "1"  # UMAP of a few replies takes seconds; compiling it takes a quarter of a minute

installed = pytest.mark.skipif(find_spec("umap") is None, reason="needs the extra: pip install 'drift[exploration]'")
pytestmark = pytest.mark.slow


def run(folder, *overrides):
    """A run, with its settings beside it as the command line leaves them."""
    perform(folder, *overrides)
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(compose(*overrides), resolve=True))
    return folder


@pytest.fixture(scope="module")
def study(cache, tmp_path_factory):
    """One run each of two methods."""
    folder = tmp_path_factory.mktemp("study")
    common = [*SMALL, "iterations=1", f"model.cache_dir={cache}", f"store.dir={folder}/store", "filters.truncated=keep"]
    run(folder / "drift", *common, "method=drift")
    run(folder / "random_logged", *common, "method=random_logged", "train.learning_rate=1e-2")
    return folder


@pytest.fixture(scope="module")
def sentences(tokenizer, tmp_path_factory):
    """The directory of a tiny BERT with random weights."""
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("bert")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def options(sentences):
    varied = "{bandwidth: [0.1, 0.3], neighbours: [4], grid: [5]}"
    return [
        f"exploration.path={sentences}", "exploration.num_samples=2", "exploration.clusters=4", "exploration.grid=12",
        f"exploration.sensitivity={varied}", "judge=verifier", "judge.noise=1.0", "sampler.max_new_tokens=8",
    ]  # fmt: skip


@installed
def test_a_study_becomes_figures_a_page_and_its_replies_and_a_second_call_computes_nothing(study, options, monkeypatch):
    words = ["explore", str(study), *options]
    dispatch(words)
    folder = study / "exploration"
    found = json.loads((folder / "explore.json").read_text())
    rows = [json.loads(line) for line in (folder / "replies.jsonl").read_text().splitlines()]
    assert found["policies"] == ["start", "drift", "randomlogged"] and found["prompts"] == 6
    assert len(rows) == found["replies"] == 3 * 6 * 2
    for name in found["policies"]:
        mine = [row for row in rows if row["policy"] == name]
        assert found["per_prompt"]["reward"][name]["mean"] == pytest.approx(sum(row["reward"] for row in mine) / 12)
        assert found["coverage"][name]["over"] == "6 prompts" and 0 <= found["coverage"][name]["mean"] <= 1
        assert found["coverage_by_seed"]["seed=0"][name] == found["coverage"][name]["mean"]
        assert 0 <= found["clusters_reached"][name]["mean"] <= found["clusters"]["high_reward"] <= found["clusters"]["all"] == 4
    gaps = {(row["policy"], row["minus"]): row["mean"] for row in found["coverage_differences"]}
    level = {name: one["mean"] for name, one in found["coverage"].items()}
    assert gaps == {
        pair: pytest.approx(level[pair[0]] - level[pair[1]])
        for pair in (("drift", "start"), ("randomlogged", "start"), ("randomlogged", "drift"))
    }
    assert "noise N(0, 1)" in found["reward"] and len(found["sensitivity"]) == 4 and len({row["reward"] for row in rows}) > 20
    page = (folder / "explore.html").read_text()
    assert all(f"{name}: coverage {level[name]:.3f}" in page for name in found["policies"]) and "Coverage: of 3 differences" in page
    assert page.count("<svg") == 1 and "Content-Security-Policy" in page and not re.search(r"<image|<script| style=", page)
    assert "can't be compared" in found["ours"] and "is that of the DRIFT paper" in page

    before = {path: path.stat().st_mtime_ns for path in (study / "store").glob("*/*/manifest.json")}
    monkeypatch.setattr("drift.exploration.embedding.compute", None)
    dispatch(words)
    assert {path: path.stat().st_mtime_ns for path in (study / "store").glob("*/*/manifest.json")} == before
    assert take_stock(study / "store").removable == [], "an exploration uses its stages, as a run does"
    assert json.loads((folder / "explore.json").read_text()) == found


@installed
def test_seeds_hold_one_run_of_each_method_with_the_start_model_first(study):
    (seed,) = seeds_in([str(study)], ["exploration.num_prompts=4"], exploration())
    assert list(seed.policies) == ["start", "drift", "randomlogged"] and len(seed.records) == 4
    assert seed.name == "seed=0" and all(record.truth for record in seed.records)
    assert len({policy.fingerprint for policy in seed.policies.values()}) == 3
    assert judge_of(seed.config, True)[1] == TRUTH


@installed
@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("exploration.bandwith=1", "Did you mean bandwidth?"),
        ("exploration.quantile=2", "quantile between 0 and 1"),
        ("exploration.grid=many", "expected a whole number"),
        ("exploration.sensitivity={clusters: [3]}", "can't be varied"),
        ("exploration.sensitivity={grid: 5}", "exploration.sensitivity.grid=5: expected a list"),
        (
            "exploration.sensitivity.quantile=[1.5]",
            "exploration.sensitivity.quantile: exploration: expected quantile between 0 and 1",
        ),
        (
            "exploration.sensitivity={centre: [foo]}",
            "exploration.sensitivity.centre: exploration.centre=foo: expected one of none, prompt",
        ),
        ("exploration.num_prompts=0", "must be at least 1"),
        ("sampler=openai", "sampler=openai: expected its settings one by one, sampler.NAME=VALUE"),
        ("data.seed=3", "the rest is the runs' own"),
        ("judge=oracle", "there is no conf/judge/oracle.yaml"),
    ],
)
def test_a_wrong_setting_is_refused_by_its_name(study, override, told):
    with pytest.raises(UserError, match=re.escape(told)):
        seeds_in([str(study)], [override], exploration())


@installed
def test_the_runs_own_judge_and_sampler_count_whichever_method_stands_first(study, tmp_path):
    """As in a sweep on a log: only one of the methods has a judge."""
    judge = OmegaConf.to_container(compose("method=iterdpo", "judge=verifier").method.judge, resolve=True)
    for name, change in (("drift", {}), ("random_logged", {"judge": judge})):
        folder, whole = tmp_path / name, OmegaConf.load(study / name / "config.yaml")
        folder.mkdir()
        for one in ("run.json", "records.jsonl"):
            shutil.copy(study / name / one, folder / one)
        (folder / "iteration_1").symlink_to(study / name / "iteration_1")
        (folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.merge(whole, {"filters": change})))
    (seed,) = seeds_in([str(tmp_path)], [], exploration())
    assert list(seed.policies)[1] == "drift" and seed.config.judge == judge and not seed.config.judge_given
    text = (tmp_path / "drift/config.yaml").read_text()
    (tmp_path / "drift/config.yaml").write_text(text.replace("temperature: 0.7", "temperature: 0.5"))
    with pytest.raises(UserError, match=r"The runs differ in sampler\.…, .* sampler\.NAME=VALUE"):
        seeds_in([str(tmp_path)], [], exploration())
    assert seeds_in([str(tmp_path)], ["sampler.temperature=0.6"], exploration())


@installed
def test_runs_that_can_t_be_compared_are_refused(study, tmp_path):
    drift, untrained, elsewhere = study / "drift", tmp_path / "untrained", tmp_path / "elsewhere"
    state, settings = json.loads((drift / "run.json").read_text()), (drift / "config.yaml").read_text()
    for folder, changed in ((untrained, state | {"points": state["points"][:1]}), (elsewhere, state)):
        folder.mkdir()
        (folder / "run.json").write_text(json.dumps(changed))
        (folder / "iteration_1").symlink_to(drift / "iteration_1")
        (folder / "config.yaml").write_text(settings)
    with pytest.raises(UserError, match="no trained policy yet"):
        seeds_in([str(untrained)], [], exploration())
    (elsewhere / "config.yaml").write_text(settings.replace("split: test", "split: validation"))
    with pytest.raises(UserError, match="evaluated on different prompts"):
        seeds_in([str(elsewhere), str(study / "random_logged")], [], exploration())
    with pytest.raises(UserError, match="contains neither a run"):
        seeds_in([str(tmp_path / "nowhere")], [], exploration())


def test_a_part_from_outside_the_program_is_not_built(tmp_path):
    settings = OmegaConf.create({"sampler": {"parts": [{"_target_": "os.system", "command": "true"}]}})
    with pytest.raises(UserError, match="names os.system"):
        refuse_foreign(settings, tmp_path)


def test_a_field_is_added_to_the_requests_of_a_judge(tmp_path):
    config = compose("model=tiny", "evaluation=deployment")
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(config))
    settings, given = settings_of(tmp_path, Reader(), exploration()), ["+judge.endpoint.fields.reasoning_effort=low", "judge=llm"]
    assert with_given(settings, None, parsed(given)).judge.endpoint.fields == {"reasoning_effort": "low"}, "in any order"
    with pytest.raises(UserError, match="Unknown key judge.endpoint.fields.reasoning_effort"):
        with_given(settings, None, parsed([one.lstrip("+") for one in given]))


@installed
def test_without_a_truth_or_a_judge_there_is_no_reward_and_pairwise_judges_are_refused(tmp_path):
    log = feedback_file(tmp_path / "log.jsonl")
    config = compose("model=tiny", "data=jsonl", f"data.path={log}")
    config = OmegaConf.create({"judge": None, "judge_given": False})
    assert judge_of(config, False) == (None, NONE)
    server = {"url": "http://localhost/v1", "model": "m", "key_variable": "null"}
    given = [f"method.judge.endpoint.{name}={value}" for name, value in server.items()]
    config.judge = compose("method=iterdpo", "judge=llm", *given).method.judge
    with pytest.raises(UserError, match="judge.mode=absolute"):
        judge_of(config, False)
    own = OmegaConf.create({"exploration": exploration(), "sampler": {}, "store": {}})
    config = with_given(own, config.judge, parsed(["judge.mode=absolute"]))  # what the message says, of the runs' own judge
    assert judge_of(config, False)[1].startswith("scores of a judge: ") and judge_of(config, True)[1] != TRUTH
    config.judge = compose("method=iterdpo", "judge=verifier").method.judge
    with pytest.raises(UserError, match="known truth"):
        judge_of(config, False)


def exploration():
    from drift.compose import CONF

    return OmegaConf.load(CONF / "exploration.yaml")
