"""Model directories: what is damaged, missing or foreign is refused by name; every file that shapes a reply is in the fingerprint;
a run's own policy, and any plain PEFT adapter, is a model again."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from drift.errors import UserError
from drift.model.adapter import BASE, CONFIG
from drift.model.policy import load_model, load_tokenizer, policy_at, save_policy
from drift.model.pretrained import Pretrained
from drift.train.lora import Lora

QUERY = "model.layers.0.self_attn.q_proj.weight"
LORA = Lora(rank=2, scale=2.0, top_share=1.0, quantization="none")
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d\nsize 123\n"


@pytest.fixture
def model(tiny, tmp_path):
    """A copy of the tiny model."""
    return shutil.copytree(tiny, tmp_path / "model")


def opened(directory):
    return Pretrained(path=str(directory), revision=None, template={}).directory()


def change(file, **settings):
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


# --- Damaged directories


DAMAGE = {
    "pointer": ("model.safetensors", POINTER, "model.safetensors is a Git LFS pointer"),
    "pointer for a tokenizer": ("tokenizer.json", POINTER, "tokenizer.json is a Git LFS pointer"),
    "empty weights": ("model.safetensors", "", "no safetensors file, or a damaged one"),
    "broken config": ("config.json", '{"model_type": ', "config.json is not readable as JSON"),
    "config of another kind": ("config.json", "[]", "expected a JSON object, found list"),
    "broken generation config": ("generation_config.json", "{", "generation_config.json is not readable as JSON"),
    "missing shard": (
        "model.safetensors.index.json", '{"weight_map": {"a": "model-00002-of-00002.safetensors"}}',
        "lacks weights: .* names model-00002-of-00002.safetensors",
    ),
    "quantised": ("config.json", '{"model_type": "llama", "quantization_config": {"quant_method": "awq"}}', r"already \(awq\)"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_model_is_refused_with_the_file_before_anything_loads(model, name):
    file, text, message = DAMAGE[name]
    (model / file).write_text(text)
    with pytest.raises(UserError, match=message):
        opened(model)


def test_half_a_weights_file_and_an_unreadable_tokenizer_are_refused(model):
    (model / "tokenizer.json").write_text('{"version": ')
    with pytest.raises(UserError, match=f"tokenizer in {model} can't be read"):
        load_tokenizer(policy_at(model))
    whole = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="model.safetensors is cut short"):
        opened(model)


WEIGHTS = {
    "missing": (lambda w: w.pop(QUERY), f"missing: {QUERY}"),
    "renamed": (
        lambda w: w.update({"model.layers.0.attn.q.weight": w.pop(QUERY)}),
        "not known to the model: model.layers.0.attn.q",
    ),
    "of another shape": (lambda w: w.update({QUERY: torch.zeros(16, 32)}), f"of another shape: {QUERY}"),
    "a bias too many": (lambda w: w.update({QUERY[:-6] + "bias": torch.zeros(32)}), r"not known to the model: .*q_proj\.bias"),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_that_are_not_the_models_are_refused_and_not_drawn_at_random(model, name):
    alter, message = WEIGHTS[name]
    weights = load_file(model / "model.safetensors")
    alter(weights)
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=message):
        load_model(policy_at(opened(model)), torch.float32)


def test_a_head_that_is_tied_is_not_missing_and_may_be_there_twice(model):
    load_model(policy_at(model), torch.float32)
    weights = load_file(model / "model.safetensors")
    save_file(
        weights | {"lm_head.weight": weights["model.embed_tokens.weight"].clone()}, model / "model.safetensors", {"format": "pt"}
    )
    load_model(policy_at(model), torch.float32)


# --- Fingerprints


@pytest.mark.parametrize(
    "file",
    ["special_tokens_map.json", "added_tokens.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt", "merges.txt",
     "model.safetensors.index.json", "generation_config.json", "tokenizer_config.json", "chat_template.jinja", "qwen.tiktoken",
     "tekken.json", "chat_template.json", "additional_chat_templates/default.jinja"],
)  # fmt: skip
def test_every_file_that_a_tokenizer_or_a_generation_reads_is_in_the_fingerprint(model, file):
    before = policy_at(model).fingerprint
    (model / file).parent.mkdir(exist_ok=True)
    with open(model / file, "a") as opened:
        opened.write(" ")
    assert policy_at(model).fingerprint != before
    (model / "README.md").write_text("Says nothing to the model.")
    assert policy_at(model).fingerprint == policy_at(shutil.copytree(model, model.parent / "copy")).fingerprint


# --- Adapters


@pytest.fixture
def adapter(model, tmp_path):
    """A policy as a training leaves it, over a model of its own."""
    adapted = LORA.attach(load_model(policy_at(model), torch.float32))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.1)
    save_policy(adapted, policy_at(model), tmp_path / "policy")
    return tmp_path / "policy"


def logits(model):
    with torch.no_grad():
        return model(input_ids=torch.tensor([[1, 2, 3]])).logits


def test_a_copy_of_a_policy_loads_by_itself_in_peft_and_transformers_and_is_a_model_again(adapter, model, tmp_path):
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoTokenizer

    copy = shutil.copytree(adapter, tmp_path / "elsewhere")
    theirs = logits(AutoPeftModelForCausalLM.from_pretrained(copy).eval())
    policy = policy_at(opened(copy))
    assert torch.equal(logits(load_model(policy, torch.float32)), theirs)
    assert not torch.equal(logits(load_model(policy_at(model), torch.float32)), theirs)
    talk = [{"role": "user", "content": "Hello?"}]
    rendered = [AutoTokenizer.from_pretrained(place).apply_chat_template(talk, tokenize=False) for place in (copy, model)]
    assert rendered[0] == rendered[1] and policy.fingerprint == policy_at(adapter).fingerprint


def test_a_runs_folder_as_model_names_its_policies(adapter, tmp_path):
    (tmp_path / "run" / "iteration_1").mkdir(parents=True)
    shutil.copytree(adapter, tmp_path / "run" / "iteration_1" / "policy")
    with pytest.raises(UserError, match=r"model\.path=.*iteration_1/policy"):
        opened(tmp_path / "run")


def test_a_plain_peft_adapter_is_the_same_model_as_ours(adapter, tmp_path):
    plain = shutil.copytree(adapter, tmp_path / "plain")
    (plain / BASE).unlink()
    assert policy_at(opened(plain)).fingerprint == policy_at(adapter).fingerprint


@pytest.mark.parametrize("kind", ["ours", "plain"])
def test_a_base_that_has_moved_is_named_with_what_to_do(adapter, model, kind):
    if kind == "plain":
        (adapter / BASE).unlink()
    moved = model.rename(model.parent / "moved")
    with pytest.raises(UserError, match=f"belongs to the base model {model}, which is not there"):
        opened(adapter)
    file, key = (CONFIG, "base_model_name_or_path") if kind == "plain" else (BASE, "directory")
    change(adapter / file, **{key: str(moved)})
    assert policy_at(opened(adapter)).base == moved


def test_a_base_that_has_changed_is_refused(adapter, model):
    (model / "special_tokens_map.json").write_text("{}")
    with pytest.raises(UserError, match="is not what the adapter .* was trained on"):
        policy_at(adapter)


def test_adapters_that_are_not_plain_lora_or_lack_weights_are_refused(adapter):
    change(adapter / CONFIG, modules_to_save=["lm_head"])
    with pytest.raises(UserError, match=r"not plain LoRA .*merge_and_unload"):
        opened(adapter)
    change(adapter / CONFIG, modules_to_save=None)
    weights = load_file(adapter / "adapter_model.safetensors")
    weights.pop(next(name for name in weights if "lora_B" in name))
    save_file(weights, adapter / "adapter_model.safetensors")
    with pytest.raises(UserError, match=r"missing: .*lora_B"):
        load_model(policy_at(opened(adapter)), torch.float32)
