"""Python code in a model's directory is never run, whoever says yes: the directory is refused by the file that asks for it."""

import json
import shutil

import pytest

from drift.errors import UserError
from drift.model.architecture import causal
from drift.model.policy import load_tokenizer, policy_at
from drift.model.pretrained import Pretrained


@pytest.fixture
def evil(tiny, tmp_path, monkeypatch):
    """The tiny model with Python files that leave a trace when they run; somebody at the keyboard says yes to everything."""
    model, trace = shutil.copytree(tiny, tmp_path / "model"), tmp_path / "it_ran"
    (model / "evil.py").write_text(f"open({str(trace)!r}, 'w')\nclass Any: pass\n")
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    yield model
    assert not trace.exists()


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json", "generation_config.json", "processor_config.json"])
def test_a_model_that_asks_for_code_is_refused_by_name_whoever_says_yes(evil, file):
    asked = {"AutoConfig": "evil.Any", "AutoModelForCausalLM": "evil.Any", "AutoTokenizer": ["evil.Any", None]}
    add(evil / file, inner=[{"auto_map": asked}])
    with pytest.raises(UserError, match=rf"{file} asks for Python code to be run \(auto_map: .*evil\.Any"):
        Pretrained(path=str(evil), revision=None, template={}).directory()


@pytest.mark.parametrize("look", [causal, lambda model: load_tokenizer(policy_at(model))], ids=["model", "tokenizer"])
def test_code_is_not_run_where_nobody_has_looked_before(evil, look):
    add(evil / "config.json", auto_map={"AutoConfig": "evil.Any", "AutoModelForCausalLM": "evil.Any"}, model_type="of its own")
    add(evil / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Any", None]}, tokenizer_class="Any")
    with pytest.raises(UserError, match="can't be"):
        look(evil)


def add(file, **settings):
    file.write_text(json.dumps((json.loads(file.read_text()) if file.exists() else {}) | settings))
