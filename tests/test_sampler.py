"""Sampling: the distribution is right, and a reply depends on its own seed alone."""

import random

import pytest
import torch
from conftest import compose
from hydra.utils import instantiate
from torch.utils._python_dispatch import TorchDispatchMode

from drift.batches import cut
from drift.engine.ask import Ask
from drift.model.chat import prompt_ids
from drift.model.policy import load_model, policy_at
from drift.randomness import Noise, order
from drift.sampler.choose import choose
from drift.sampler.cpu import bands, skinny
from drift.sampler.decode import SampleRequest, sample
from drift.sampler.transformers import Transformers
from drift.store import Store
from drift.train.lora import Lora


class Question:
    def __init__(self, i):
        self.key, self.prompt = str(i), [{"role": "user", "content": "Tell me. " * (i % 5) + f"What is {i}?"}]


def asking(sampler, directory, store, **bound):
    train, policy = instantiate(compose("train.precision=float32").train), policy_at(directory)
    return Ask(sampler=sampler, compute=train.compute, store=store, start=policy, policy=policy, seed=0, **bound)


def draw_all(tiny, folder, group_size, count=12, samples=2, temperature=1.0, tokens_per_batch=10_000):
    sampler = Transformers(
        temperature=temperature, top_p=0.95, max_new_tokens=16, max_prompt_tokens=500, group_size=group_size,
        tokens_per_batch=tokens_per_batch, precision="float32",
    )  # fmt: skip
    store = Store(dir=str(folder), strict=False, verify=False, lease_seconds=30.0, keep_policies="all")
    with asking(sampler, tiny, store, purpose="test", iteration=1) as ask:
        items = [Question(i) for i in range(count)]
        found = [(i.key, [r.text for r in rs]) for i, rs in ask.draw(items, lambda i: [i.prompt] * samples, label="t")]
    return found, store


def test_replies_do_not_depend_on_the_group_size(tiny, tmp_path):
    one, seven, all_at_once = (draw_all(tiny, tmp_path / str(size), size)[0] for size in (1, 7, 32))
    assert one == seven == all_at_once == draw_all(tiny, tmp_path / "cut", 32, tokens_per_batch=300)[0]
    assert len({text for _, texts in one for text in texts}) > 12  # they do differ from one another


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_frozen_head_of_an_adapter_is_not_copied_for_every_prompt(tiny, dtype):
    """torch multiplies a batch row by row, with a copy of the weight each, where that is frozen and the input a slice."""
    model = Lora(rank=4, scale=2.0, top_share=1.0, quantization="none").attach(load_model(policy_at(tiny), dtype))
    products = []

    class Products(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if func in (torch.ops.aten.bmm.default, torch.ops.aten.mm.default) and out.shape[-1] == model.config.vocab_size:
                products.append((func, len(out)))
            return out

    with Products(), torch.no_grad():
        logits = model(input_ids=torch.ones(3, 5, dtype=torch.long), logits_to_keep=2).logits
    assert logits.shape[:2] == (3, 2) and products == [(torch.ops.aten.mm.default, 6)]


def test_a_second_draw_computes_nothing(tiny, tmp_path):
    first, store = draw_all(tiny, tmp_path, 8)
    again, second = draw_all(tiny, tmp_path, 8)
    assert first == again
    assert [stage.hit for stage in store.log] == [False] * 3 and [stage.hit for stage in second.log] == [True] * 3


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_greedy_decoding_equals_generate_of_transformers(either, tokenizer, attention):
    """Prompts of several lengths together, through the shared beginning, the padding and the dropped rows."""
    model = load_model(policy_at(either), torch.float32)
    prompts = [prompt_ids(tokenizer, Question(i).prompt) for i in range(6)]
    rows = [SampleRequest(prompt=prompt, uniforms=[0.0] * 24) for prompt in prompts]
    model.set_attn_implementation(attention)
    ours = sample(model, rows, max_new_tokens=24, temperature=0, top_p=1.0, stop_ids={tokenizer.eos_token_id}, pad_id=0)
    model.set_attn_implementation("sdpa")
    for prompt, reply in zip(prompts, ours, strict=True):
        plain = model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=24)[0, len(prompt) :]
        assert plain.tolist() == reply


def test_bands_without_padding_give_the_replies_of_the_padded_cache(either, tokenizer):
    """Float64, prompts of 20 to 200 tokens with one to three replies each, replies that end at different steps."""
    model = load_model(policy_at(either), torch.float64)
    prompts = [prompt_ids(tokenizer, [{"role": "user", "content": "Tell me. " * (i * i) + f"What is {i}?"}]) for i in range(7)]
    rows = [
        SampleRequest(prompt=prompt, uniforms=Noise(0, "t", 0, str(i), k).uniforms(40))
        for i, prompt in enumerate(prompts)
        for k in range(1 + i % 3)
    ]
    settings = {"max_new_tokens": 40, "temperature": 1.0, "top_p": 0.95, "stop_ids": set(range(0, 300, 12)), "pad_id": 0}
    banded, plain = (sample(model, rows, banded=choice, **settings) for choice in (True, False))
    assert banded == plain and len({len(reply) for reply in plain}) > 6 and bands.supports(model, 1000)


def test_linear_layers_for_a_few_rows_give_the_same_numbers():
    torch.manual_seed(0)
    for bias in (True, False):
        plain = torch.nn.Linear(24, 40, bias=bias)
        light = torch.nn.Sequential(torch.nn.Linear(24, 40, bias=bias))
        light[0].load_state_dict(plain.state_dict())
        skinny.speed_up(light)
        for shape in ((1,), (6, 1), (4, 3), (48,), (7, 8)):
            x = torch.randn(*shape, 24)
            assert (light(x) - plain(x)).abs().max() < 1e-5 and light(x).shape == plain(x).shape


def test_inverse_cdf_picks_the_token_whose_interval_contains_the_uniform():
    """Probabilities .2 .5 .3: u = .19 -> 0, .21 -> 1, .69 -> 1, .71 -> 2; at top_p .6 only tokens 1 and 2 remain (.5, .3)."""
    logits = torch.log(torch.tensor([[0.2, 0.5, 0.3]])).expand(4, 3)
    assert choose(logits, torch.tensor([0.19, 0.21, 0.69, 0.71]), 1.0, 1.0).tolist() == [0, 1, 1, 2]
    assert choose(logits, torch.tensor([0.0, 0.62, 0.63, 0.99]), 1.0, 0.6).tolist() == [1, 1, 2, 2]


@pytest.mark.parametrize("top_p", [1.0, 0.9])
@pytest.mark.parametrize("spread", [0.01, 3.0])  # nearly flat: a nucleus of thousands of tokens; peaked: a few
@pytest.mark.parametrize("size", [3001, 20_001])  # of the larger one, only the blocks with the largest maxima are looked at
def test_choosing_by_blocks_equals_choosing_by_the_full_running_sum(top_p, spread, size):
    generator = torch.Generator().manual_seed(0)
    logits, shares = spread * torch.randn(50, size, generator=generator), torch.rand(50, generator=generator)
    by_token = torch.softmax(logits, dim=1).double()
    probabilities, ids = by_token.sort(dim=1, descending=True) if top_p < 1 else (by_token, torch.arange(size).expand(50, -1))
    kept = probabilities.masked_fill(probabilities.cumsum(dim=1) - probabilities >= top_p, 0.0).cumsum(dim=1)
    plain = ids.gather(1, torch.searchsorted(kept, shares[:, None].double() * kept[:, -1:], right=True)).squeeze(1)
    chosen = choose(logits, shares, 1.0, top_p)
    assert by_token.gather(1, chosen[:, None]).equal(by_token.gather(1, plain[:, None]))  # equal ones may come in any order


def test_a_reply_with_a_wide_nucleus_changes_none_beside_it():
    """Temperature 1, top_p .9: a row of 20,000 equal logits needs 18,000 tokens, the others a few."""
    generator = torch.Generator().manual_seed(0)
    logits, shares = 4 * torch.randn(6, 20_000, generator=generator).bfloat16(), torch.rand(6, generator=generator)
    logits[2] = 0
    together = choose(logits, shares, 1.0, 0.9)
    assert together.tolist() == [int(choose(logits[i : i + 1], shares[i : i + 1], 1.0, 0.9)) for i in range(6)]


def test_sampled_frequencies_follow_the_softmax_at_the_temperature():
    logits = torch.tensor([[1.0, 0.0, -1.0]]).expand(20000, 3)
    drawn = choose(logits, torch.as_tensor(Noise(0, "t", 0, "x", 0).uniforms(20000)), 0.5, 1.0)
    expected = torch.softmax(logits[0] / 0.5, dim=0)
    assert (torch.bincount(drawn, minlength=3) / 20000 - expected).abs().max() < 0.01  # 3 standard errors: .0033 * 3


def test_noise_depends_on_its_identity_and_on_nothing_else():
    base = Noise(0, "pairs", 1, "item", 0)
    assert base.uniforms(4).tolist() == base.uniforms(8)[:4].tolist() and 0 <= base.as_seed() < 2**63
    others = [(1, "pairs", 1, "item", 0), (0, "log", 1, "item", 0), (0, "pairs", 2, "item", 0), (0, "pairs", 1, "x", 0)]
    for other in [*others, (0, "pairs", 1, "item", 1)]:
        assert base.uniforms(4).tolist() != Noise(*other).uniforms(4).tolist() and base.as_seed() != Noise(*other).as_seed()


def test_the_order_of_items_does_not_depend_on_their_input_order():
    items = list("abcdefg")
    one = [items[i] for i in order(0, "x", 1, items)]
    assert one == [items[::-1][i] for i in order(0, "x", 1, items[::-1])] != items


def test_items_with_unequal_numbers_of_prompts_are_refused(tiny, tmp_path):
    sampler = Transformers(
        temperature=1.0, top_p=1.0, max_new_tokens=4, max_prompt_tokens=500, group_size=8, tokens_per_batch=10_000,
        precision="float32",
    )  # fmt: skip
    store = Store(dir=str(tmp_path), strict=False, verify=False, lease_seconds=30.0, keep_policies="all")
    with asking(sampler, tiny, store, purpose="t", iteration=0) as ask:
        drawing = ask.draw([Question(1), Question(2)], lambda item: [item.prompt] * int(item.key), label="t")
        with pytest.raises(AssertionError, match="1 prompts for the first item"):
            next(drawing)


def test_too_long_prompts_are_skipped_and_counted(tiny, tokenizer, tmp_path):
    limit = len(prompt_ids(tokenizer, Question(5).prompt))
    sampler = Transformers(
        temperature=1.0,
        top_p=1.0,
        max_new_tokens=4,
        max_prompt_tokens=limit,
        group_size=4,
        tokens_per_batch=10_000,
        precision="float32",
    )
    store = Store(dir=str(tmp_path), strict=False, verify=False, lease_seconds=30.0, keep_policies="all")
    items = [Question(0), Question(4), Question(5)]
    with asking(sampler, tiny, store, purpose="t", iteration=0) as ask:
        kept = [item.key for item, _ in ask.draw(items, lambda i: [i.prompt], label="t")]
    assert kept == ["0", "5"] and ask.drawn["prompts_too_long"] == 1


@pytest.mark.parametrize("prompts", [[[1, 2, 3]], [[5, 6], [5, 7, 8, 9]], [[1], [2, 3]]])
def test_prefill_handles_any_shared_beginning(tiny, prompts):
    model = load_model(policy_at(tiny), torch.float32)
    rows = [SampleRequest(prompt=prompt, uniforms=[0.5] * 3) for prompt in prompts]
    together = sample(model, rows, max_new_tokens=3, temperature=1.0, top_p=1.0, stop_ids={999}, pad_id=0)
    alone = [sample(model, [row], max_new_tokens=3, temperature=1.0, top_p=1.0, stop_ids={999}, pad_id=0)[0] for row in rows]
    assert together == alone


def test_merging_a_float32_adapter_changes_no_log_prob(tiny, tokenizer, tmp_path):
    """What is sampled from is what was trained: re-scored, merged against apart, 1e-5 nats."""
    from drift.model.policy import save_policy
    from drift.score.padded import collate, reply_logprobs
    from drift.score.sequence import TokenSequence as Scored
    from drift.train.lora import Lora

    start = policy_at(tiny)
    model = Lora(rank=4, scale=2.0, top_share=1.0, quantization="none").attach(load_model(start, torch.float32))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)) * 0.1)
    save_policy(model, start, tmp_path)
    batch = collate([Scored(prompt=[1, 2, 3], reply=[4, 5, 6, 7]), Scored(prompt=[9], reply=[8, 8])], pad_id=0)
    apart, merged = (load_model(policy_at(tmp_path), torch.float32, merge=merge) for merge in (False, True))
    with torch.no_grad():
        one, other, base = (reply_logprobs(m, batch)[0] for m in (apart, merged, load_model(start, torch.float32)))
    assert (one - other).abs().max() < 1e-5 < (one - base).abs().max()


def test_where_short_rows_are_padded_a_batch_has_room_for_all_of_them_at_the_length_of_the_longest():
    """Sizes 2, 2, 3 and 9 into 8: three rows of 3 would take 9. In any order, no batch of several exceeds the limit."""
    assert cut(range(4), [2, 2, 3, 9], 8) == [[0, 1, 2], [3]]
    assert cut(range(4), [2, 2, 3, 9], 8, padded=True) == [[0, 1], [2], [3]]
    sizes = [random.Random(0).randint(1, 30) for _ in range(200)]
    batches = cut(range(200), sizes, 40, padded=True)
    assert [i for batch in batches for i in batch] == list(range(200))
    assert all(len(batch) * max(sizes[i] for i in batch) <= 40 for batch in batches)
