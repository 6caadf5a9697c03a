"""Model directories: what is damaged, missing or foreign is refused by name, before a log is read; every file that
shapes a reply is in the fingerprint; a run's own policy, and any plain PEFT adapter, is a model again."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from drift.errors import UserError
from drift.model.adapter import BASE, CONFIG
from drift.model.policy import load_model, load_tokenizer, policy_at, save_policy
from drift.model.pretrained import Pretrained
from drift.model.weights import check_weights
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
    "empty weights": ("model.safetensors", "", "not a safetensors file, or it is damaged"),
    "broken config": ("config.json", '{"model_type": ', "config.json is not valid JSON"),
    "config of another kind": ("config.json", "[]", "expected a JSON object, found list"),
    "broken generation config": ("generation_config.json", "{", "generation_config.json is not valid JSON"),
    "missing shard": (
        "model.safetensors.index.json", '{"weight_map": {"a": "model-00002-of-00002.safetensors"}}',
        "lacks weights: .* lists model-00002-of-00002.safetensors",
    ),
    "shard outside": (
        "model.safetensors.index.json", '{"weight_map": {"a": "../../elsewhere/model.safetensors"}}', "not a file beside it",
    ),
    "nested without end": ("config.json", '{"a": ' * 10**5, "config.json is not valid JSON"),
    "pointer for a template": ("chat_template.jinja", POINTER, "chat_template.jinja is a Git LFS pointer"),
    "quantised": ("config.json", '{"model_type": "llama", "quantization_config": {"quant_method": "awq"}}', r"quantised \(awq\)"),
    "quantised oddly": ("config.json", '{"model_type": "llama", "quantization_config": ["gptq"]}', r"quantised \(\['gptq'\]\)"),
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


HEADER = {
    "a type that there is not": ('"F32"', '"F33"', "not a safetensors file, or it is damaged"),
    "a shape that its bytes are not": ("[32,32]", "[32,33]", "not a safetensors file, or it is damaged"),
    "numbers of eight bits": ('"F32","shape":[32,32]', '"I32","shape":[32,32]', r"already quantised \(.* is of type I32\)"),
}


@pytest.mark.parametrize("name", HEADER)
def test_a_header_with_a_flipped_bit_or_of_packed_numbers_is_refused(model, name):
    before, after, message = HEADER[name]
    whole = (model / "model.safetensors").read_bytes()
    assert before.encode() in whole and len(before) == len(after)
    (model / "model.safetensors").write_bytes(whole.replace(before.encode(), after.encode(), 1))
    with pytest.raises(UserError, match=message):
        opened(model)


CONFIGS = [
    {"num_hidden_layers": 10**9}, {"hidden_size": 10**12}, {"vocab_size": 10**30}, {"num_hidden_layers": "two"},
    {"num_hidden_layers": 3}, {"num_hidden_layers": 1}, {"num_attention_heads": 0}, {"hidden_size": -32}, {"hidden_size": [32]},
    {"vocab_size": 400}, {"model_type": 7}, {"model_type": "no_such_model"}, {"rope_parameters": {"rope_type": "no such"}},
    {"hidden_act": "no such"}, {"pad_token_id": 10**6}, {"dtype": "float99"},
]  # fmt: skip


@pytest.mark.parametrize("settings", CONFIGS, ids=str)
def test_a_config_that_the_weights_do_not_fit_or_nobody_can_read_is_refused(model, settings):
    change(model / "config.json", **settings)
    with pytest.raises(UserError, match=r"(config\.json|configuration)"):
        check_weights(opened(model))


WEIGHTS = {
    "missing": (lambda w: w.pop(QUERY), f"missing: {QUERY}"),
    "renamed": (
        lambda w: w.update({"model.layers.0.attn.q.weight": w.pop(QUERY)}),
        "unknown to the model: model.layers.0.attn.q",
    ),
    "of another shape": (lambda w: w.update({QUERY: torch.zeros(16, 32)}), f"of the wrong shape: {QUERY}"),
    "a bias too many": (lambda w: w.update({QUERY[:-6] + "bias": torch.zeros(32)}), r"unknown to the model: .*q_proj\.bias"),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_that_are_not_the_models_are_refused_and_not_drawn_at_random(model, name):
    alter, message = WEIGHTS[name]
    weights = load_file(model / "model.safetensors")
    alter(weights)
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    for look in (
        check_weights,
        lambda directory: load_model(policy_at(directory), torch.float32),
    ):  # before anything is loaded, and then
        with pytest.raises(UserError, match=message):
            look(opened(model))


def test_a_head_that_is_tied_is_not_missing_and_may_be_there_twice(model):
    check_weights(model)
    load_model(policy_at(model), torch.float32)
    weights = load_file(model / "model.safetensors")
    save_file(
        weights | {"lm_head.weight": weights["model.embed_tokens.weight"].clone()}, model / "model.safetensors", {"format": "pt"}
    )
    check_weights(model)
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


def test_an_adapter_is_read_onto_the_device_of_its_model(adapter, monkeypatch):
    """By itself peft takes the first GPU, so that all ranks would load theirs there."""
    monkeypatch.setattr("peft.peft_model.infer_device", lambda: pytest.fail("peft chooses a device"))
    assert next(load_model(policy_at(adapter), torch.float32).parameters()).device.type == "cpu"


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
    with pytest.raises(UserError, match=f"belongs to the base model {model}, which is missing"):
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
    for look in (check_weights, lambda directory: load_model(policy_at(directory), torch.float32)):
        with pytest.raises(UserError, match=r"missing: .*lora_B"):
            look(opened(adapter))


def test_adapters_of_another_rank_or_that_ask_for_code_are_refused_before_anything_loads(adapter):
    check_weights(opened(adapter))
    change(adapter / CONFIG, r=3)
    with pytest.raises(UserError, match=r"of the wrong shape: .*lora_[AB]"):
        check_weights(opened(adapter))
    change(adapter / CONFIG, r="two")
    with pytest.raises(UserError, match="adapter_config.json can't be used"):
        check_weights(opened(adapter))
    change(adapter / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Any", None]})
    with pytest.raises(UserError, match="tokenizer_config.json asks for Python code"):
        opened(adapter)
