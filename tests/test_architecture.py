"""Kinds of models: sliding windows and latent attention are sampled from as `generate` does; other memories, and rotary embeddings
that change with the batch, are refused before weights load; LoRA says what it leaves alone."""

import json

import pytest
import torch

from drift.errors import UserError
from drift.model.architecture import check_architecture, shares_beginnings
from drift.sampler.decode import SampleRequest, sample
from drift.score.attention import refuse_unknown_arguments
from drift.train.lora import Lora, not_adapted

SIZES = dict(
    vocab_size=100, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    initializer_range=0.4, eos_token_id=0, pad_token_id=0, bos_token_id=None,
)  # fmt: skip
LATENT = dict(
    num_key_value_heads=4, kv_lora_rank=16, q_lora_rank=16, qk_rope_head_dim=8, qk_nope_head_dim=8, v_head_dim=12, n_group=2,
    topk_group=1, n_routed_experts=4, num_experts_per_tok=2, moe_intermediate_size=16, first_k_dense_replace=1,
)  # fmt: skip
WINDOW = {"sliding_window": 16}
KINDS = {
    "mistral": WINDOW,
    "qwen2": WINDOW | {"use_sliding_window": True, "max_window_layers": 1},
    "gemma3_text": WINDOW | {"head_dim": 8, "layer_types": ["sliding_attention", "full_attention"]},
    "deepseek_v3": LATENT,
}


def random_model(kind, **settings):
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **(SIZES | settings))).eval()


@pytest.mark.parametrize("kind", KINDS)
def test_a_reply_in_a_group_is_the_reply_alone_whatever_the_attention(kind):
    """Five prompts of 11 to 60 tokens with 8 common ones, 20 new tokens each: with a window of 16, all cross it."""
    model = random_model(kind, **KINDS[kind])
    noise = torch.Generator().manual_seed(1)
    prompts = [[*range(1, 9), *torch.randint(1, 100, (more,), generator=noise).tolist()] for more in (3, 12, 25, 40, 52)]
    settings = {"max_new_tokens": 20, "temperature": 0, "top_p": 1.0, "stop_ids": {0}, "pad_id": 0}
    together = sample(model, [SampleRequest(prompt=prompt, uniforms=[0.0] * 20) for prompt in prompts], **settings)
    for prompt, reply in zip(prompts, together, strict=True):
        ids = torch.tensor([prompt])
        alone = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=20, do_sample=False)
        assert reply == alone[0, len(prompt) :].tolist()
    assert shares_beginnings(model.config) == (kind == "deepseek_v3")


REFUSED = {
    "qwen3_next": ({}, "layers of the kind linear_attention"),
    "qwen3_5_text": ({}, "layers of the kind linear_attention"),
    "lfm2": ({"layer_types": ["conv", "full_attention"], "num_hidden_layers": 2}, "layers of the kind conv"),
    "falcon_h1": ({}, "keeps its past in"),
    "gemma3n_text": ({}, "keys and values that several layers share"),
    "rwkv": ({}, "a state"),
    "t5": ({}, "not a causal language model"),
    "no_such_kind": ({}, "config.json can't be used"),
}
DYNAMIC = {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}, "max_position_embeddings": 256}
LONG = {
    "rope_scaling": {"type": "longrope", "short_factor": [1.0] * 48, "long_factor": [2.0] * 48},
    "original_max_position_embeddings": 256, "max_position_embeddings": 4096,
}  # fmt: skip


def check(folder, tokenizer, kind, settings, longest=256):
    (folder / "config.json").write_text(json.dumps({"model_type": kind} | settings))
    check_architecture(folder, tokenizer, longest=longest)


@pytest.mark.parametrize("kind", REFUSED)
def test_models_with_another_memory_than_keys_and_values_are_refused_with_the_reason(kind, tokenizer, tmp_path):
    settings, message = REFUSED[kind]
    with pytest.raises(UserError, match=message):
        check(tmp_path, tokenizer, kind, settings)


@pytest.mark.parametrize(("kind", "settings"), [("llama", DYNAMIC), ("phi3", LONG)], ids=["dynamic", "longrope"])
def test_rotary_embeddings_that_change_with_the_longest_row_are_refused_beyond_their_border(kind, settings, tokenizer, tmp_path):
    check(tmp_path, tokenizer, kind, settings, longest=256)
    with pytest.raises(UserError, match=r"a sequence has more than 256 tokens.*Sequences may have 257.*train\.max_tokens"):
        check(tmp_path, tokenizer, kind, settings, longest=257)


def test_a_tokenizer_of_another_model_is_refused(tokenizer, tmp_path):
    check(tmp_path, tokenizer, "llama", {"vocab_size": len(tokenizer)})
    with pytest.raises(UserError, match=r"does not have \(<\|im_end\|>\)"):
        check(tmp_path, tokenizer, "llama", {"vocab_size": len(tokenizer) - 1})  # the end of turn is also the padding


def test_arguments_of_attention_that_change_numbers_are_not_passed_over():
    refuse_unknown_arguments({"dropout": 0.0, "sliding_window": None, "use_cache": False}, 16)
    refuse_unknown_arguments({"sliding_window": 16}, 16)
    for name, value in (("sliding_window", 15), ("softcap", 50.0), ("s_aux", torch.zeros(4)), ("not_invented_yet", 1)):
        with pytest.raises(UserError, match=f"attention uses {name}"):
            refuse_unknown_arguments({name: value}, 16)


def test_lora_on_a_mixture_of_experts_says_what_it_leaves_alone(capsys):
    """Of 2 layers: 4 experts of 3 x 32 x 32 each and a router of 4 x 32; queries and outputs 2 x 32 x 32, keys and values
    2 x 16 x 32; the head 100 x 32 once. So 24,832 of 34,176 numbers."""
    model = random_model("mixtral", num_local_experts=4, intermediate_size=32)
    note = "experts.down_proj, experts.gate_up_proj, gate.weight (73% of the matrices) stay as they are, unquantised"
    assert not_adapted(model) == note
    adapted = Lora(rank=2, scale=1.0, top_share=1.0, quantization="none").attach(model)
    reached = {name.split(".")[-4] for name, _ in adapted.named_parameters() if "lora_" in name}
    assert reached == {"q_proj", "k_proj", "v_proj", "o_proj"}
    assert note in capsys.readouterr().out
    assert not_adapted(random_model("llama")) == ""


def test_a_model_without_linear_modules_can_not_take_lora():
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(vocab_size=100, n_embd=32, n_layer=1, n_head=4, bos_token_id=None, eos_token_id=None))
    with pytest.raises(UserError, match="no linear modules to adapt"):
        Lora(rank=2, scale=1.0, top_share=1.0, quantization="none").attach(model)
