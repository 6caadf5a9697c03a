"""What stands for a part in a stage's key: its class, its source, its settings; a changed line of a method makes new pairs."""

import importlib
import sys
from types import SimpleNamespace

import pytest
from conftest import SMALL, compose

from drift import loop
from drift.config import build
from drift.errors import UserError
from drift.identity import code, identity, named
from drift.model.policy import load_tokenizer, policy_at
from drift.records import read_records

METHOD = """
from dataclasses import dataclass

from drift.records import Example, Labelled
{imports}

@dataclass(frozen=True, kw_only=True)
class Drift:  # named like the one that is shipped
    guidance: object
    rounds: int
    judge = None
    needs = "DSAT or SAT"

    paired = True
    hindsight = False

    def learns_from(self, record):
        return True

    def make_examples(self, records, ask):
        for record, (reply,) in ask.draw(records, lambda record: [record.prompt], label="fresh replies"):
            chosen = Labelled(text=reply.text, ended=True, fresh=True, good=True)
            rejected = Labelled(text={rejected}, ended=True, fresh=False, good=False)
            yield Example(prompt=record.prompt, replies=(chosen, rejected), feedback=None, record=record.id)
"""


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Writes modules into a folder of the search path, and imports the first one afresh."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(**modules):
        for name, text in modules.items():
            path = tmp_path.joinpath(*name.split("__")).with_suffix(".py")
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
            sys.modules.pop(name.replace("__", "."), None)
        importlib.invalidate_caches()
        sys.dont_write_bytecode = True
        return importlib.import_module(next(iter(modules)).replace("__", "."))

    yield write
    sys.dont_write_bytecode = False
    for name in [name for name, module in sys.modules.items() if str(tmp_path) in str(getattr(module, "__file__", ""))]:
        del sys.modules[name]


def test_a_changed_line_of_a_method_outside_the_package_makes_its_pairs_anew(written, cache, tmp_path):
    settings = [*SMALL, f"model.cache_dir={cache}", f"store.dir={tmp_path}/store", "filters.truncated=keep"]

    def found(*overrides):
        """Whether the pairs are in the store already."""
        run = build(compose(*settings, *overrides))
        start = policy_at(run.model.directory())
        tokenizer = load_tokenizer(start)
        this = loop.Loop(run=run, journal=None, start=start, tokenizer=tokenizer)
        feedback = loop.feedback_stage(this.ask(start, 0, "log", 0), run.data, run.intake, run.mine, tokenizer)
        return this.examples_stage(1, run.method, 6, start, read_records(feedback.path / "records.jsonl")).hit

    own, first = "method._target_=outside.Drift", METHOD.format(imports="", rejected="record.reply")
    assert not found()
    written(outside=first)
    assert not found(own), "two classes of one name and with equal settings share their pairs"
    assert found(own)
    written(outside=first.replace("record.reply", "'never mind'"))
    assert not found(own)


def test_the_code_of_a_part_holds_its_bases_and_its_own_helpers(written):
    before = "from plug.base import Base\nfrom .near import f\n\nclass Part(Base):\n    pass\n"
    module = {"plug__part": before, "plug__base": "class Base: pass\n", "plug__near": "import plug.far\nf = 1\n", "plug__far": ""}
    first = code(written(**module).Part)
    changed = {name: code(written(**module | {name: module[name] + "# changed\n"}).Part) for name in module}
    assert len({first, *changed.values()}) == 1 + len(module)
    assert code(written(**module).Part) == first


def test_a_part_is_named_by_module_class_and_source():
    from drift.examples.guidance import Guidance
    from drift.method.drift import Drift

    found = identity(Drift(num_samples=1, rounds=2, guidance=Guidance(share=0.5, instruction="i")))
    guidance = {"class": "drift.examples.guidance.Guidance", "code": code(Guidance), "share": 0.5, "instruction": "i"}
    assert found == {"class": "drift.method.drift.Drift", "code": code(Drift), "num_samples": 1, "rounds": 2, "guidance": guidance}
    assert code(Drift) != code(Guidance) and len(code(Drift)) == 64


def test_two_samplers_with_the_same_settings_have_different_keys(written):
    from drift.sampler.transformers import Transformers

    settings = dict(temperature=1.0, top_p=1.0, max_new_tokens=8, max_prompt_tokens=64, group_size=4, tokens_per_batch=64)
    text = "from drift.sampler.transformers import Transformers as Shipped\n\nclass Transformers(Shipped):\n    pass\n"
    ours, other = (kind(**settings, precision="float32") for kind in (Transformers, written(sampling=text).Transformers))
    assert ours.key() == other.key() and identity(ours) != identity(other)
    assert identity(ours) == named(ours) | ours.key() | {"together": None}  # what float32 does not depend on stays out


def test_parts_in_lists_are_named_and_what_is_no_part_is_refused():
    from drift.judge.verifier import Verifier

    judges = [Verifier(noise=0.0, seed=1, group_size=1), Verifier(noise=0.5, seed=1, group_size=1)]
    assert [judge["noise"] for judge in identity({"judges": judges})["judges"]] == [0.0, 0.5]
    with pytest.raises(UserError, match="Expected a dataclass"):
        identity(object())


@pytest.mark.parametrize(("deployed", "shared"), [("null", True), ("{directory}", False)])
def test_a_log_of_another_assistant_depends_on_the_start_model_whose_tokens_are_counted(tiny, deployed, shared):
    """The record's length is counted with the start model's tokenizer, which another assistant need not share."""
    data = build(compose(*SMALL, f"data.deployed.policy={deployed.format(directory=tiny)}")).data
    seen = []
    store = SimpleNamespace(run=lambda name, work, **key: seen.append(key))
    for fingerprint in ("one", "other"):
        ask = SimpleNamespace(
            store=store, sampler=None, compute=SimpleNamespace(max_tokens=9), policy=SimpleNamespace(fingerprint="theirs"),
            start=SimpleNamespace(fingerprint=fingerprint),
        )  # fmt: skip
        loop.feedback_stage(ask, data, None, None, None)
    assert (seen[0] == seen[1]) == shared
