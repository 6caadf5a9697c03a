"""The planner's numbers against the modules themselves: on the meta device at the paper's sizes, and what autograd keeps."""

from dataclasses import replace

import pytest
import torch
from torch.distributed.fsdp import FSDPModule
from transformers import AutoConfig, AutoModelForCausalLM

from drift.model.family import PROVED
from drift.model.policy import load_model, policy_at
from drift.plan import activations, memory
from drift.plan.activations import Setup, kept_per_token, rounded_weights
from drift.plan.shape import KNOWN, shape_of
from drift.score import attention, logprobs
from drift.score.sequence import TokenSequence
from drift.score.shared import collate
from drift.train.lora import Lora
from drift.train.parallel import shard

QWEN = {"0.5B": (896, 24, 14, 2, 4864, 151936, True), "7B": (3584, 28, 28, 4, 18944, 152064, False),
        "14B": (5120, 48, 40, 8, 13824, 152064, False)}  # fmt: skip
BILLIONS = {"0.5B": 0.494032768, "7B": 7.615616512, "14B": 14.770033664}  # as the model cards state them: 0.49, 7.61, 14.7
NAMES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size", "vocab_size",
         "tie_word_embeddings")  # fmt: skip


def qwen(size):
    return AutoConfig.for_model("qwen2", **dict(zip(NAMES, QWEN[size], strict=True)))


def small(kind, layers=2, **more):
    sizes = {"hidden_size": 32, "num_hidden_layers": layers, "num_attention_heads": 4, "num_key_value_heads": 2,
             "intermediate_size": 48, "vocab_size": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip
    return AutoConfig.for_model(kind, **sizes, **more)


def meta(config, dtype=torch.float32):
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, dtype=dtype)


def setup(**changed):
    plain = {"adapted": 0, "rank": 0, "weight_bytes": 4, "compute_bytes": 4, "file_bytes": 2, "quantised": False,
             "checkpointing": False, "optimizer": "adamw", "shared": True, "frozen": False, "device": "cpu",
             "devices": 1, "divided": False, "offloaded": False}  # fmt: skip
    return Setup(**(plain | changed))


@pytest.mark.parametrize("size", QWEN)
def test_at_the_papers_sizes_every_matrix_and_every_byte_is_that_of_the_real_module(size):
    shape, model = shape_of(qwen(size)), meta(qwen(size), torch.bfloat16)
    assert shape.total == sum(p.numel() for p in model.parameters()) == round(BILLIONS[size] * 1e9)
    for layer in model.model.layers:
        found = {path.rpartition(".")[2]: (part.in_features, part.out_features)
                 for path, part in layer.named_modules() if isinstance(part, torch.nn.Linear)}  # fmt: skip
        assert found == shape.matrices
        assert sum(p.numel() for p in layer.parameters()) == shape.layer
    assert memory.weights(shape, 2, quantised=False) == sum(p.nbytes for p in model.parameters())
    lora = Lora(rank=16, scale=2.0, top_share=1.0, quantization="none")
    trained = [p for p in lora.attach(model).parameters() if p.requires_grad]
    whole = setup(adapted=shape.layers, rank=16, weight_bytes=2, compute_bytes=2)
    assert memory.trained(shape, whole) == sum(p.numel() for p in trained)
    assert memory.gradients(shape, whole) == sum(p.nbytes for p in trained)
    assert memory.optimizer_state(shape, whole) == 2 * sum(p.nbytes for p in trained)


@pytest.mark.parametrize("kind", KNOWN)
@pytest.mark.parametrize("more", [{}, {"attention_bias": True, "mlp_bias": True, "head_dim": 16}], ids=["plain", "biases"])
def test_every_known_type_has_the_numbers_of_its_module(kind, more):
    config = small(kind, **more)
    shape, model = shape_of(config), meta(config)
    assert shape.total == sum(p.numel() for p in model.parameters())
    assert shape.linear == sum(p.weight.numel() for p in model.model.layers[0].modules() if isinstance(p, torch.nn.Linear))


def test_the_known_types_are_those_whose_layers_are_all_alike():
    assert set(KNOWN) == set(PROVED) - {"olmo3"}
    assert shape_of(small("mixtral")) is None
    odd = small("llama")
    odd.num_attention_heads = 0
    assert shape_of(odd) is None


def test_four_bit_weights_take_what_bitsandbytes_allocates(tiny):
    model = load_model(policy_at(tiny, "nf4"), torch.bfloat16)
    found = 0
    for parameter in model.parameters():
        found += parameter.nbytes
        if hasattr(parameter, "quant_state"):
            found += parameter.quant_state.absmax.nbytes + parameter.quant_state.state2.absmax.nbytes
    assert memory.weights(shape_of(model.config), 2, quantised=True) == found


WAYS = {
    "LoRA in float32": {"adapted": 1, "rank": 4},
    "LoRA in bfloat16": {"adapted": 1, "rank": 4, "weight_bytes": 2, "compute_bytes": 2},
    "all weights in float32": {},
    "all weights under autocast": {"compute_bytes": 2},
    "all weights in bfloat16": {"weight_bytes": 2, "compute_bytes": 2},
}


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "phi3", "smollm3"])
@pytest.mark.parametrize("way", WAYS)
def test_a_layer_keeps_for_the_backward_pass_what_the_formula_says(kind, way):
    """The bytes of two layers without those of one, for which more is kept where no gradient flows below it."""
    how = setup(**WAYS[way])
    two, three, shape = *(kept(kind, layers, how) for layers in (2, 3)), shape_of(small(kind))
    tokens = TOKENS
    one = setup(**(WAYS[way] | ({"adapted": 1} if how.adapted else {})))
    expected = tokens * kept_per_token(shape, one) + rounded_weights(shape, one) // one.trained_layers(shape)
    assert three - two == expected


TOKENS = 5 + 3 + 3  # a prompt of 5, two replies of 4


def kept(kind, layers, how):
    """The bytes of all tensors, but parameters, that a forward pass of the layers keeps."""
    torch.manual_seed(0)
    dtype = {2: torch.bfloat16, 4: torch.float32}[how.weight_bytes]
    model = AutoModelForCausalLM.from_config(small(kind, layers), dtype=dtype)
    if how.adapted:
        model = Lora(rank=how.rank, scale=2.0, top_share=1.0, quantization="none").attach(model).get_base_model()
    model.set_attn_implementation(attention.registered())
    batch = collate([TokenSequence(prompt=[1, 2, 3, 4, 5], reply=[6, 7, 8, 9])] * 2, 0)
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    storages = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = (storage.nbytes(), tensor)  # the tensor, so that no other takes its place
        return tensor

    spans = {
        "visible": attention.visibility(batch["spans"], torch.device("cpu")),
        "longest": attention.longest_sequence(batch["spans"]),
    }
    mixed = torch.autocast("cpu", torch.bfloat16, cache_enabled=False, enabled=how.mixed)
    with mixed, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.base_model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False, **spans)
    return sum(size for size, _ in storages.values())


def test_sizes_that_stand_in_code_without_torch_are_those_of_the_code_with_it():
    from drift.sampler import prefill

    assert (activations.CHUNK, activations.TILE) == (logprobs.CHUNK_ELEMENTS, attention.TILE)
    assert memory.PREFILL == prefill.MAX_PREFILL_TOKENS


@pytest.fixture
def eight_ranks():
    """A process group of eight ranks of which only the first is there, and which sends nothing: enough to divide a model."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    torch.distributed.init_process_group("fake", rank=0, world_size=8, store=FakeStore())
    yield torch.distributed.device_mesh.init_device_mesh("cpu", (8,))
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("size", ["7B", "14B"])
@pytest.mark.parametrize("way", ["full", "lora"])
def test_fsdp_divides_the_papers_models_as_planned(size, way, eight_ranks):
    """Every layer is a group and the rest is one; a device has an eighth of the weights, of the trained numbers and of the moments,
    within the rows that don't divide by eight. What is brought together: embedding, head, last norm, three layers."""
    config, compute = qwen(size), torch.bfloat16 if way == "lora" else torch.float32
    shape, model = shape_of(config), meta(config, compute)
    planned = setup(device="cuda", weight_bytes=compute.itemsize, compute_bytes=2, devices=8, divided=True)
    if way == "lora":
        model = Lora(rank=16, scale=2.0, top_share=1.0, quantization="none").attach(model)
        planned = replace(planned, adapted=shape.layers, rank=16)
    module = torch.nn.Module()
    module.model = model
    shard(module, eight_ranks, dtype=torch.float32, offload=False)
    wrapped = [name for name, part in module.named_modules() if isinstance(part, FSDPModule)]
    path = "model.base_model.model.model.layers" if way == "lora" else "model.model.layers"
    assert wrapped == ["", *(f"{path}.{i}" for i in range(shape.layers))]
    mine = {name: p.to_local().nbytes for name, p in module.named_parameters()}
    trained = sum(mine[name] for name, p in module.named_parameters() if p.requires_grad)
    parts = memory.training(shape, planned, memory.Batch(tokens=2048, predicted=1024, longest=1024, several=True))
    assert sum(mine.values()) == pytest.approx(parts["weights"] + parts.get("adapter", 0), rel=1e-3)
    assert trained == pytest.approx(parts["gradients"], rel=1e-3) and 2 * trained == pytest.approx(parts["optimiser"], rel=1e-3)
    layer, whole = (sum(p.numel() * p.itemsize for name, p in module.named_parameters() if (f"{path}.0." in name, True)[k])
                    for k in range(2))  # fmt: skip
    assert memory.together(shape, planned, 0) == whole - shape.layers * layer + 3 * layer
