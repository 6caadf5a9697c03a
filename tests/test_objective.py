"""The losses, with expected numbers derived by hand, and the masks at the borders of a reply."""

import math
from dataclasses import replace

import pytest
import torch
from conftest import preference

from drift.model.chat import prompt_ids, reply_ids
from drift.model.policy import load_model, policy_at
from drift.objective.batch import Batch, Step
from drift.objective.dpo import Dpo, dpo
from drift.objective.dpo_norm import DpoNorm
from drift.objective.dpop import dpop
from drift.objective.hinge import hinge
from drift.objective.ipo import Ipo, ipo
from drift.objective.kto import Kto, kto
from drift.objective.nll import Nll, nll
from drift.objective.robust import robust
from drift.objective.sdpo import Sdpo, sdpo
from drift.score.padded import collate, reply_logprobs
from drift.score.plan import make_plan, swap_replies, tokenize
from drift.score.reference import check_start
from drift.score.sequence import TokenSequence

HELLO = [{"role": "user", "content": "Hello?"}]


def pair(i, chosen="yes", rejected="no", ended=True):
    return preference(f"Question {i}", chosen, rejected, chosen_ended=ended, record=str(i))


CHOSEN, REJECTED = torch.tensor([3.0]), torch.tensor([1.0])  # log-ratios: chosen gained 3 nats, rejected 1; the margin is 2


def test_dpo_of_a_margin_of_two_nats_at_beta_one_tenth():
    """-ln sigmoid(0.2) = ln(1 + e^-0.2) = 0.5981388693815918."""
    assert dpo(CHOSEN, REJECTED, 0.1).item() == pytest.approx(0.5981388693815918, abs=1e-7)


def test_dpo_is_ln_two_where_policy_and_reference_agree():
    assert dpo(torch.zeros(3), torch.zeros(3), 0.1).tolist() == pytest.approx([math.log(2)] * 3, abs=1e-7)


def test_hinge_is_the_distance_of_the_margin_below_one():
    """1 - 0.1 * 2 = 0.8; a margin of 20 lacks nothing."""
    assert hinge(CHOSEN, REJECTED, 0.1).item() == pytest.approx(0.8)
    assert hinge(10 * CHOSEN, 10 * REJECTED, 0.1).item() == 0


def test_robust_loss_corrects_for_the_share_of_flipped_pairs():
    """(0.8 * 0.5981388694 - 0.2 * 0.7981388694) / 0.6 = 0.5314722027; -ln sigmoid(-0.2) = 0.5981388694 + 0.2."""
    assert robust(CHOSEN, REJECTED, 0.1, 0.2).item() == pytest.approx(0.5314722027, abs=1e-6)
    assert robust(CHOSEN, REJECTED, 0.1, 0.0).item() == pytest.approx(0.5981388693815918, abs=1e-7)


def test_ipo_is_the_squared_distance_of_the_margin_per_token_from_half_over_beta():
    """3 nats over 6 tokens less 1 over 2: margin 0; 1 / (2 * 0.25) = 2; (0 - 2)^2 = 4."""
    assert ipo(CHOSEN / 6, REJECTED / 2, 0.25).item() == 4.0


def test_length_normalised_dpo_divides_each_reply_by_its_tokens():
    """3 / 2 - 1 / 2 = 1; -ln sigmoid(0.2) at beta 0.2."""
    batch = batch_of([3.0, 1.0], [2, 2], [True, False], [0, 0])
    loss, _ = DpoNorm(weight=1.0, beta=0.2).loss(batch, step_of(batch))
    assert loss.item() == pytest.approx(0.5981388693815918, abs=1e-7)


def test_dpop_subtracts_lost_chosen_log_prob_from_the_margin():
    """chosen lost 1 nat, rejected lost 13: margin 12, less 10 * 1 = 2. Where chosen gained, it is DPO."""
    assert dpop(-REJECTED, torch.tensor([-13.0]), 0.1, 10.0).item() == pytest.approx(0.5981388693815918, abs=1e-7)
    assert dpop(CHOSEN, REJECTED, 0.1, 10.0).item() == pytest.approx(0.5981388693815918, abs=1e-7)


def test_nll_is_per_token_over_the_whole_step():
    """Two replies of 3 and 5 tokens with log-probs -6 and -10: 16 / 8 = 2 nats a token (per pair it would be 2 and 2)."""
    assert nll(torch.tensor([-6.0, -10.0]), 8).item() == 2.0


def batch_of(ratios, lengths, good, example):
    """Replies whose reference log-prob is -20 nats."""
    return Batch(
        logps=torch.tensor(ratios) - 20, reference=torch.full((len(ratios),), -20.0), lengths=torch.tensor(lengths),
        good=tuple(good), example=tuple(example), tokens=torch.zeros(sum(lengths)), hindsight=None,
    )  # fmt: skip


def step_of(batch, kl=None):
    num_good = sum(batch.good)
    return Step(
        num_examples=len(set(batch.example)), num_good=num_good, num_bad=len(batch.good) - num_good,
        good_tokens=int(batch.lengths[:num_good].sum()), bad_tokens=int(batch.lengths[num_good:].sum()), kl=kl,
    )  # fmt: skip


def test_an_example_with_three_chosen_replies_weighs_as_much_as_a_pair():
    """Margins against the one rejected reply (log-ratio 1): 2, -1 and 0; at beta 0.5 -ln sigmoid(1) = .3132617, -ln sigmoid(-.5) =
    .9740770, ln 2 = .6931472: their mean is .6601620. The pair beside it has a margin of 2: .3132617."""
    batch = batch_of([3.0, 0.0, 1.0, 5.0, 1.0, 3.0], [2] * 6, [True] * 4 + [False] * 2, [0, 0, 0, 1, 0, 1])
    loss, metrics = Dpo(weight=1.0, beta=0.5).loss(batch, step_of(batch))
    assert loss.item() == pytest.approx(0.6601620 + 0.3132617, abs=1e-6)
    assert metrics["margin"].item() == pytest.approx(0.5 * (1 / 3 + 2), abs=1e-6)
    assert metrics["accuracy"].item() == pytest.approx(1 / 3 + 1, abs=1e-6)


def test_losses_per_token_divide_each_reply_by_its_own_tokens():
    """Log-ratios 3 over 6 tokens and 1 over 2: both .5 a token, so DPO is ln 2 and IPO at beta .25 is (0 - 2)^2."""
    batch = batch_of([3.0, 1.0], [6, 2], [True, False], [0, 0])
    assert DpoNorm(weight=1.0, beta=0.3).loss(batch, step_of(batch))[0].item() == pytest.approx(math.log(2), abs=1e-6)
    assert Ipo(weight=1.0, beta=0.25).loss(batch, step_of(batch))[0].item() == pytest.approx(4.0, abs=1e-5)


def test_kto_of_a_liked_and_a_disliked_reply_by_hand():
    """KL 1 nat, beta .5. Liked, log-ratio 3: 1 - sigmoid(.5 * 2) = .2689414. Disliked, log-ratio 2: 1 - sigmoid(-.5 * 1) =
    .6224593. With a weight of 2 on disliked ones: (.2689414 + 1.2449187) / 2 a reply."""
    found = kto(torch.tensor([3.0, 2.0]), torch.tensor([True, False]), 1.0, 0.5)
    assert found.tolist() == pytest.approx([0.2689414, 0.6224593], abs=1e-6)
    batch = batch_of([3.0, 2.0], [4, 4], [True, False], [0, 1])
    part = Kto(weight=1.0, beta=0.5, desirable_weight=1.0, undesirable_weight=2.0)
    loss, metrics = part.loss(batch, step_of(batch, kl=1.0))
    assert loss.item() / 2 == pytest.approx((0.2689414 + 1.2449187) / 2, abs=1e-6) and metrics["kl"].item() / 2 == 1.0


POLICY, TEACHER, LENGTHS = torch.tensor([-1.0, -2.0, -4.0, -2.0]), torch.tensor([-3.0, -1.0, -2.0, -2.5]), torch.tensor([3, 1])


def test_sdpo_weighs_each_token_by_what_the_teacher_would_rather_have_said():
    """Advantages -2, 1 and 2 of the first reply, -.5 of the second. Losses (-2 * 1 + 1 * 2 + 2 * 4) / 3 and -.5 * 2, mean
    advantages 1 / 3 and -.5, of absolute values 5 / 3 and .5."""
    losses, advantages, sizes = sdpo(POLICY, TEACHER, LENGTHS, 0)
    assert losses.tolist() == pytest.approx([8 / 3, -1.0])
    assert (advantages.tolist(), sizes.tolist()) == (pytest.approx([1 / 3, -0.5]), pytest.approx([5 / 3, 0.5]))


def test_sdpo_leaves_out_the_first_tokens_of_every_reply():
    """(1 * 2 + 2 * 4) / 2 = 5 without the first token of each; the second reply has no other."""
    assert [values.tolist() for values in sdpo(POLICY, TEACHER, LENGTHS, 1)] == [[5.0, 0.0], [1.5, 0.0], [1.5, 0.0]]


def test_sdpo_has_the_gradient_of_half_the_squared_advantage():
    """The advantages 1 and 2, halved by the number of tokens that count, with the sign of a descent."""
    logps = POLICY.clone().requires_grad_()
    sdpo(logps, TEACHER, LENGTHS, 1)[0].sum().backward()
    assert logps.grad is not None and logps.grad.tolist() == [0.0, -0.5, -1.0, 0.0]
    halves = [((TEACHER - logps)[1:3] ** 2 / 2).mean()]
    (squared,) = torch.autograd.grad(halves, logps)
    assert torch.equal(squared, logps.grad)


def test_sdpo_is_a_mean_over_the_replies_of_a_step():
    """Two replies of one example: its loss is their mean."""
    batch = replace(batch_of([0.0, 0.0], [3, 1], [True, False], [0, 0]), tokens=POLICY, hindsight=TEACHER)
    loss, metrics = Sdpo(weight=1.0, ignored_tokens=1).loss(batch, step_of(batch))
    assert (loss.item(), metrics["advantage"].item(), metrics["advantage_size"].item()) == (2.5, 0.75, 0.75)


def test_nll_of_a_batch_without_a_good_reply_is_zero():
    batch = batch_of([1.0], [4], [False], [0])
    assert Nll(weight=1.0).loss(batch, step_of(batch))[0].item() == 0


def test_step_zero_check_states_the_difference():
    check_start(0.0)
    with pytest.raises(RuntimeError, match="differ from the reference's by 2.00e-05 nats, expected 0"):
        check_start(2e-5)


def test_masks_begin_at_the_first_reply_token_and_end_at_the_end_of_turn(tokenizer):
    prompt, reply = prompt_ids(tokenizer, HELLO), reply_ids(tokenizer, HELLO, "Hi", ended=True)
    batch = collate([TokenSequence(prompt=prompt, reply=reply), TokenSequence(prompt=prompt[:5], reply=[7])], pad_id=0)
    first = batch["input_ids"][0][batch["reply_mask"][0]].tolist()
    assert tokenizer.convert_ids_to_tokens(first) == ["H", "i", "<|im_end|>"]
    assert batch["reply_mask"][1].nonzero().flatten().tolist() == [5]
    assert batch["attention_mask"].sum(dim=1).tolist() == [len(prompt) + 3, 6]


def test_a_truncated_reply_has_no_end_of_turn_token(tokenizer):
    assert reply_ids(tokenizer, HELLO, "Hi", ended=False) == reply_ids(tokenizer, HELLO, "Hi", ended=True)[:-1]


def test_log_probs_count_exactly_the_reply_tokens(tiny, tokenizer):
    """Against one unpadded row at a time with full logits; padding and neighbours change nothing."""
    model = load_model(policy_at(tiny), torch.float64)
    rows = [
        TokenSequence(prompt=prompt_ids(tokenizer, HELLO), reply=reply_ids(tokenizer, HELLO, text, ended=True))
        for text in ("Hi", "Good day to you.", "?")
    ]
    with torch.no_grad():
        together, *_ = reply_logprobs(model, collate(rows, pad_id=0))
        for row, found in zip(rows, together, strict=True):
            ids = torch.tensor([[*row.prompt, *row.reply]])
            logp = model(ids).logits.log_softmax(-1)[0]
            start = len(row.prompt)
            plain = sum(logp[start - 1 + k, token] for k, token in enumerate(row.reply))
            assert found.item() == pytest.approx(plain.item(), rel=1e-12)


def planned(pairs, *, tokens_per_batch=200, example_order="shuffled", seed=0, longest_mismatched=None):
    how = {
        "tokens_per_batch": tokens_per_batch,
        "example_order": example_order,
        "seed": seed,
        "longest_mismatched": longest_mismatched,
    }
    return make_plan(pairs, layout="shared", examples_per_step=3, **how)


def test_the_plan_holds_every_pair_once_and_does_not_depend_on_their_order(tokenizer):
    """A pair here computes 70 tokens (65 of its prompt, all but the last of 4 and of 3 in its replies), so 200 hold two."""
    pairs = tokenize(tokenizer, [pair(i) for i in range(7)])
    one, other = planned(pairs), planned(pairs[::-1])
    assert one.key == other.key
    assert sorted(i for batch in one.batches for i in batch) == list(range(7))
    assert [[len(batch) for batch in step] for step in one.steps] == [[2, 1], [2, 1], [1]]
    assert one.key != planned(pairs, seed=1).key
    assert [[len(batch) for batch in step] for step in planned(pairs, tokens_per_batch=1).steps] == [[1, 1, 1], [1, 1, 1], [1]]


def test_by_prompt_order_keeps_pairs_of_one_prompt_together(tokenizer):
    pairs = tokenize(tokenizer, [pair(i % 3, chosen=f"yes {i}") for i in range(9)])
    assert [len({tuple(p.prompt) for p in one_step(planned(pairs, example_order="by_prompt"), k)}) for k in range(3)] == [1] * 3
    assert sum(len({tuple(p.prompt) for p in one_step(planned(pairs), k)}) for k in range(3)) > 3


def one_step(found, number):
    return [found.examples[i] for batch in found.steps[number] for i in batch]


def test_pairs_are_collated_chosen_first(tokenizer):
    rows = tokenize(tokenizer, [pair(1, "aa", "b"), pair(2, "c", "dd")])
    found = planned(rows, tokens_per_batch=1000)
    batch = collate(found.sequences(found.batches[0]), pad_id=0)
    texts = [tokenizer.decode(ids[mask]) for ids, mask in zip(batch["input_ids"], batch["reply_mask"], strict=True)]
    assert [texts[:2], texts[2:]] in (
        [["aa<|im_end|>", "c<|im_end|>"], ["b<|im_end|>", "dd<|im_end|>"]],
        [["c<|im_end|>", "aa<|im_end|>"], ["dd<|im_end|>", "b<|im_end|>"]],
    )
    assert batch["reply_lengths"].tolist() == [int(mask.sum()) for mask in batch["reply_mask"]]


def test_mismatched_sequences_have_a_prompt_and_the_previous_reply(tokenizer):
    found = planned(
        tokenize(tokenizer, [pair(i, f"yes {i}", f"no {i}") for i in range(3)]), longest_mismatched=100, tokens_per_batch=1000
    )
    ((rows,),) = found.mismatched
    own = {tuple(row.prompt): [one.reply for one in example.sequences] for example in found.examples for row in example.sequences}
    assert (
        len(rows) == 3 and len({tuple(row.prompt) for row in rows}) == 3
    )  # of six replies three stand after one to their own prompt
    assert all(row.reply not in own[tuple(row.prompt)] for row in rows)
    assert found.passes[-1] == rows and planned(tokenize(tokenizer, [pair(0)]), longest_mismatched=100).mismatched == [[]]


def test_a_mismatched_sequence_is_no_longer_than_the_model_was_checked_for():
    """Prompts of 3 and 5 tokens, replies of 4 and 1: swapped they have 3 + 1 and 5 + 4 tokens."""
    short, long = (TokenSequence(prompt=[1] * p, reply=[2] * r) for p, r in ((3, 4), (5, 1)))
    assert swap_replies([short, long], 8) == [TokenSequence(prompt=[1] * 3, reply=[2])]
    assert len(swap_replies([short, long], 9)) == 2
