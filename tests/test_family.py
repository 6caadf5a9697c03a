"""Every family that `model/family.py` lists, on a tiny random model with all that sets it apart: the fast paths give the numbers
of the plain ones to 1e-5 in float32, and the same comparison fails where positions are wrong. What is not listed is refused with
its reason, from config.json alone, and is right on padded rows."""

import copy
import json

import pytest
import torch

from drift.errors import UserError
from drift.model.architecture import check_architecture
from drift.model.family import PROVED, objection
from drift.sampler.cpu import bands, skinny
from drift.sampler.decode import SampleRequest, sample
from drift.sampler.prefill import prefill
from drift.score import padded, shared
from drift.score.frozen_outputs import load_output, save_outputs
from drift.score.sequence import TokenSequence
from drift.train.frozen import without_layers
from drift.train.lora import Lora

CLOSE, FAR = 1e-5, 1e-3
VOCABULARY = 120
LONGEST = 28  # tokens of the longest row that are computed, in training and in decoding: what a window must hold
NEW = 7  # tokens that decoding adds; of the last one nothing is computed
SIZES = dict(
    vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
    initializer_range=0.15, eos_token_id=0, pad_token_id=0, bos_token_id=None,
)  # fmt: skip
HALF_TURNED = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}
TWO_ROTARIES = {"sliding_attention": {"rope_type": "default", "rope_theta": 50.0}, "full_attention": {"rope_theta": 1e4}}
CASES = {
    "llama": ("llama", {}),
    "llama tied": ("llama", {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True}),
    "mistral windowed": ("mistral", {"sliding_window": LONGEST}),
    "mistral wide heads": ("mistral", {"sliding_window": None, "head_dim": 16}),
    "olmo2": ("olmo2", {}),
    "olmo3 windowed": ("olmo3", {"sliding_window": LONGEST, "layer_types": ["full_attention", *["sliding_attention"] * 2],
                                 "rope_parameters": TWO_ROTARIES}),
    "phi3 half turned": ("phi3", {"rope_parameters": HALF_TURNED}),
    "phi3 windowed, tied": ("phi3", {"sliding_window": LONGEST, "tie_word_embeddings": True}),
    "qwen2 tied": ("qwen2", {"tie_word_embeddings": True}),
    "qwen2 windowed": ("qwen2", {"use_sliding_window": True, "sliding_window": LONGEST, "max_window_layers": 1}),
    "qwen3": ("qwen3", {"head_dim": 16}),
    "qwen3 tied": ("qwen3", {"head_dim": 8, "tie_word_embeddings": True, "attention_bias": True}),
    "smollm3": ("smollm3", {"no_rope_layer_interval": 2}),  # of three layers the second one knows no positions
}  # fmt: skip


def tokens(seed, count):
    return torch.randint(1, VOCABULARY, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


ASKED = tokens(0, 20)
ROWS = [  # two prompts with several replies, of which one begins as the other; a reply of one token; the longest row
    *(TokenSequence(prompt=ASKED, reply=tokens(seed, count)) for seed, count in ((1, 4), (2, 1), (3, LONGEST + 1 - 20))),
    *(TokenSequence(prompt=ASKED[:-1], reply=tokens(seed, 6)) for seed in (4, 5)),
    TokenSequence(prompt=tokens(6, 3), reply=tokens(7, 12)),
]
PROMPTS = [of for count, several in ((LONGEST + 1 - NEW, 2), (12, 3), (3, 1)) for of in [tokens(count, count)] * several]


def tiny_model(kind, settings):
    """Its norms and biases are not the ones and zeros of a new model."""
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **(SIZES | settings))).eval()
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.data += 0.3 * torch.randn(parameter.shape)
    return model


@pytest.fixture(params=CASES)
def case(request):
    kind, settings = CASES[request.param]
    return kind, tiny_model(kind, settings)


def numbers(layout, model, batch, without=0):
    """Of every row the log-prob; of every trained parameter the gradient of their weighted sum. `without`: layers taken off."""
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    model.zero_grad()
    with without_layers(model, without):
        sums, *_ = layout.reply_logprobs(model, batch)
        (sums * torch.linspace(-1, 2, len(sums))).sum().backward()
    return {"log-probs": sums.detach()} | {name: parameter.grad.clone() for name, parameter in trained.items()}


def deviation(found, expected):
    """The largest, of a tensor's norm."""
    assert found.keys() == expected.keys()
    return max(float((found[name] - expected[name]).norm() / expected[name].norm()) for name in expected)


def collated(layout):
    return layout.collate(ROWS, 0)


def unrestarted(batch):
    """Each token's position is its place among all rows."""
    return batch | {"position_ids": torch.arange(batch["position_ids"].shape[1])[None]}


def test_the_shared_layout_gives_the_log_probs_and_gradients_of_the_padded_one(case):
    _, model = case
    expected = numbers(padded, model, collated(padded))
    assert deviation(numbers(shared, model, collated(shared)), expected) <= CLOSE
    assert deviation(numbers(shared, model, unrestarted(collated(shared))), expected) > FAR


def adapted(model):
    """A copy with an adapter on its upper two layers, which changes something."""
    model = Lora(rank=4, scale=2.0, top_share=0.67, quantization="none").attach(copy.deepcopy(model))
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.1, generator=generator)
    return model


def test_frozen_layers_can_be_removed_where_the_table_says_so(case, tmp_path):
    """Where it says no, the numbers would be wrong."""
    kind, model = case
    expected = numbers(padded, policy := adapted(model), collated(padded))
    assert deviation(numbers(shared, policy, collated(shared)), expected) <= CLOSE
    with torch.no_grad(), save_outputs(model, 1, tmp_path / "frozen"):
        shared.reply_logprobs(model, collated(shared))
    found = numbers(shared, policy, collated(shared) | {"hidden": load_output(tmp_path / "frozen", 0)}, without=1)
    if objection(model.config, "frozen_layers", longest=LONGEST):
        assert kind == "olmo3" and deviation(found, expected) > FAR
    else:
        assert deviation(found, expected) <= CLOSE


def test_an_adapter_reaches_the_fused_projections_of_phi3():
    reached = {name.split(".")[-4] for name, _ in adapted(tiny_model("phi3", {})).named_parameters() if "lora_A" in name}
    assert reached == {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"}


@torch.inference_mode()
def decoded(model, banded, restarted=True):
    """Greedy replies to all PROMPTS and the logits behind each token `(R, NEW, V)`. Not `restarted`: a reply's positions go on from
    the longest prompt's instead of its own."""
    logits, state = prefill(model, PROMPTS, NEW, 0, banded=banded)
    if not restarted:
        state.positions = state.positions.max().expand(len(PROMPTS))
    steps = [logits]
    for _ in range(NEW - 1):
        steps.append(state.step(steps[-1].argmax(dim=1)))
    together = torch.stack(steps, dim=1)
    return together.argmax(dim=2).tolist(), together


@torch.inference_mode()
def uncached(model, replies):
    """The logits of plain forward passes, one for each row."""
    rows = zip(PROMPTS, replies, strict=True)
    return torch.stack([model(torch.tensor([[*of, *reply[:-1]]])).logits[0, len(of) - 1 :] for of, reply in rows])


def test_banded_decoding_gives_the_logits_of_plain_forward_passes(case):
    _, model = case
    light = copy.deepcopy(model)
    skinny.speed_up(light)
    replies, logits = decoded(light, True)
    plain_replies, plain_logits = decoded(model, False)
    apart = float(max((logits - other).abs().max() for other in (plain_logits, uncached(model, replies))))
    assert replies == plain_replies and apart <= CLOSE
    _, shifted = decoded(light, True, restarted=False)
    assert (shifted - plain_logits)[:, 1].abs().max() > FAR


def test_replies_of_different_lengths_are_those_of_the_padded_cache(case):
    _, model = case
    noise = torch.rand(len(PROMPTS), NEW, generator=torch.Generator().manual_seed(0)).tolist()
    rows = [SampleRequest(prompt=prompt, uniforms=uniforms) for prompt, uniforms in zip(PROMPTS, noise, strict=True)]
    settings = {"max_new_tokens": NEW, "temperature": 1.0, "top_p": 0.95, "stop_ids": set(range(0, 120, 4)), "pad_id": 0}
    banded, plain = (sample(model, rows, banded=choice, **settings) for choice in (True, False))
    assert banded == plain and len({len(reply) for reply in plain}) > 1


def test_every_listed_family_is_among_the_cases():
    assert {kind for kind, _ in CASES.values()} == set(PROVED)


WINDOWED = [name for name, (_, settings) in CASES.items() if "sliding_window" in settings and settings["sliding_window"]]


@pytest.mark.parametrize("name", WINDOWED)
def test_a_window_shorter_than_the_longest_sequence_is_refused_by_the_check_and_by_the_attention(name, tmp_path):
    """One token shorter. The cases above stand for the one that fits."""
    kind, settings = CASES[name]
    model = tiny_model(kind, settings | {"sliding_window": LONGEST - 1})
    model.config.save_pretrained(tmp_path)
    shared.check_model(tmp_path, LONGEST - 1)
    with pytest.raises(
        UserError, match=rf"window of {LONGEST - 1} tokens, and sequences may have {LONGEST}\. Use train.layout=padded"
    ):
        shared.check_model(tmp_path, LONGEST)
    with pytest.raises(UserError, match=rf"uses sliding_window.*longest sequence has {LONGEST} tokens"):
        shared.reply_logprobs(model, collated(shared))
    model.set_attn_implementation("sdpa")
    assert bands.supports(model, LONGEST - 1) and not bands.supports(model, LONGEST)
    with pytest.raises(UserError, match=rf"uses sliding_window.*longest sequence has {LONGEST} tokens"):
        decoded(model, True)


def test_decoding_uses_bands_if_prompts_and_new_tokens_fit_the_window_and_otherwise_the_padded_cache(monkeypatch):
    """The distinct prompts have 22 + 12 + 3 tokens; six rows of 22 are more than twice as many, so bands pay."""
    chosen = []

    def recorded(*args, banded):
        chosen.append(banded)
        return prefill(*args, banded=banded)

    monkeypatch.setattr("drift.sampler.decode.prefill", recorded)
    rows = [SampleRequest(prompt=prompt, uniforms=[0.0] * NEW) for prompt in PROMPTS]
    settings = {"max_new_tokens": NEW, "temperature": 0, "top_p": 1.0, "stop_ids": {0}, "pad_id": 0}
    for window in (LONGEST, LONGEST - 1):
        sample(tiny_model("mistral", {"sliding_window": window}), rows, **settings)
    assert chosen == [True, False]


CAPS = {"attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0}
FACTORS = {"embedding_multiplier": 3.0, "residual_multiplier": 0.5, "attention_multiplier": 0.2}
MIXED = {"head_dim": 8, "sliding_window": 8, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
REFUSED = {  # settings that make a model of them, and the reason
    "cohere": ({}, "logit_scale=0.0625"),
    "gemma": ({"head_dim": 8}, "type, gemma, are not verified"),
    "gemma2": (MIXED | CAPS, "attn_logit_softcapping=5.0"),
    "gemma3_text": (MIXED, "type, gemma3_text, are not verified"),
    "gemma4_text": (MIXED | {"num_kv_shared_layers": 0}, "type, gemma4_text, are not verified"),
    "gpt_oss": ({"head_dim": 8, "sliding_window": 8, "num_local_experts": 4, "num_experts_per_tok": 2}, "type, gpt_oss, are"),
    "granite": (FACTORS | {"logits_scaling": 8.0}, "embedding_multiplier=3.0, logits_scaling=8.0"),
    "llama": ({"logits_scaling": 2.0}, "logits_scaling=2.0"),
    "olmo3": ({"sliding_window": 8}, "window of 8 tokens, and sequences may have 28"),
}


def written(folder, kind, settings):
    (folder / "config.json").write_text(json.dumps({"model_type": kind} | settings))
    return folder


@pytest.mark.parametrize("kind", REFUSED)
def test_other_models_are_refused_by_the_fast_paths_with_the_reason(kind, tmp_path):
    settings, reason = REFUSED[kind]
    with pytest.raises(UserError, match=rf"train.layout=shared can't train the model in .*{reason}.*Use train.layout=padded"):
        shared.check_model(written(tmp_path, kind, SIZES | settings), LONGEST)
    padded.check_model(tmp_path, LONGEST)


@pytest.mark.parametrize("kind", sorted(REFUSED.keys() - {"llama", "gemma4_text"}))  # gemma4's import alone takes seconds
def test_the_padded_layout_of_other_models_gives_the_numbers_of_single_sequences(kind):
    """Windows of 8 tokens, caps, factors, experts: against the formula on one row at a time."""
    model = tiny_model(kind, REFUSED[kind][0])
    assert not bands.supports(model, LONGEST)
    with torch.no_grad():
        sums, *_ = padded.reply_logprobs(model, collated(padded))
        for row, found in zip(ROWS, sums, strict=True):
            logits = model(torch.tensor([[*row.prompt, *row.reply]])).logits[0, len(row.prompt) - 1 : -1]
            alone = torch.log_softmax(logits, dim=1)[range(len(row.reply)), row.reply].sum()
            assert found.item() == pytest.approx(alone.item(), rel=CLOSE)


@pytest.mark.parametrize(
    ("kind", "settings", "reason"),
    [
        ("qwen3_5", {}, "linear_attention"),
        ("lfm2", {"layer_types": ["conv", "full_attention"], "num_hidden_layers": 2}, "conv"),
        ("gemma4", {"text_config": {"num_kv_shared_layers": 2}}, "keys and values that several layers share"),
    ],
)
def test_models_with_recurrent_layers_are_refused(kind, settings, reason, tmp_path):
    with pytest.raises(UserError, match=reason):
        check_architecture(written(tmp_path, kind, settings), None, longest=LONGEST)
    with pytest.raises(UserError, match="Use train.layout=padded"):
        shared.check_model(tmp_path, LONGEST)


def test_a_head_with_a_bias_is_refused():
    model = tiny_model("llama", {})
    model.lm_head = torch.nn.Linear(32, 120, bias=True)
    with pytest.raises(UserError, match="head has a bias"):
        shared.reply_logprobs(model, collated(shared))
