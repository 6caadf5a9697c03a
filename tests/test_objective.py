"""The losses, with expected numbers derived by hand, and the masks at the borders of a reply."""

import math

import pytest
import torch

from drift.model.chat import prompt_ids, reply_ids
from drift.model.policy import load_model, policy_at
from drift.records import Pair
from drift.score.padded import collate, reply_logprobs
from drift.score.plan import Row, plan, tokenize
from drift.train import objective
from drift.train.modules import check_start

HELLO = [{"role": "user", "content": "Hello?"}]


def pair(i, chosen="yes", rejected="no", ended=True):
    prompt = [{"role": "user", "content": f"Question {i}"}]
    return Pair(
        prompt=prompt, chosen=chosen, rejected=rejected, chosen_ended=ended, rejected_ended=True, fresh=("chosen",),
        feedback=None, record=str(i),
    )  # fmt: skip


CHOSEN, REJECTED = torch.tensor([3.0]), torch.tensor([1.0])  # log-ratios: chosen gained 3 nats, rejected 1; the margin is 2


def test_dpo_of_a_margin_of_two_nats_at_beta_one_tenth():
    """-ln sigmoid(0.2) = ln(1 + e^-0.2) = 0.5981388693815918."""
    assert objective.sigmoid(CHOSEN, REJECTED, 0.1).item() == pytest.approx(0.5981388693815918, abs=1e-7)


def test_dpo_is_ln_two_where_policy_and_reference_agree():
    assert objective.sigmoid(torch.zeros(3), torch.zeros(3), 0.1).tolist() == pytest.approx([math.log(2)] * 3, abs=1e-7)


def test_hinge_is_what_the_margin_lacks_to_one():
    """1 - 0.1 * 2 = 0.8; a margin of 20 lacks nothing."""
    assert objective.hinge(CHOSEN, REJECTED, 0.1).item() == pytest.approx(0.8)
    assert objective.hinge(10 * CHOSEN, 10 * REJECTED, 0.1).item() == 0


def test_robust_loss_takes_the_flipped_share_out():
    """(0.8 * 0.5981388694 - 0.2 * 0.7981388694) / 0.6 = 0.5314722027; -ln sigmoid(-0.2) = 0.5981388694 + 0.2."""
    assert objective.robust(CHOSEN, REJECTED, 0.1, 0.2).item() == pytest.approx(0.5314722027, abs=1e-6)
    assert objective.robust(CHOSEN, REJECTED, 0.1, 0.0).item() == pytest.approx(0.5981388693815918, abs=1e-7)


def test_ipo_is_the_squared_distance_of_the_margin_per_token_from_half_over_beta():
    """3 nats over 6 tokens less 1 over 2: margin 0; 1 / (2 * 0.25) = 2; (0 - 2)^2 = 4."""
    assert objective.ipo(CHOSEN, REJECTED, torch.tensor([6]), torch.tensor([2]), 0.25).item() == 4.0


def test_length_normalised_dpo_divides_each_reply_by_its_tokens():
    """3 / 2 - 1 / 2 = 1; -ln sigmoid(0.2) at beta 0.2."""
    found = objective.sigmoid_norm(CHOSEN, REJECTED, torch.tensor([2]), torch.tensor([2]), 0.2)
    assert found.item() == pytest.approx(0.5981388693815918, abs=1e-7)


def test_dpop_takes_lost_chosen_log_prob_off_the_margin():
    """chosen lost 1 nat, rejected lost 13: margin 12, less 10 * 1 = 2. Where chosen gained, it is DPO."""
    assert objective.dpop(-REJECTED, torch.tensor([-13.0]), 0.1, 10.0).item() == pytest.approx(0.5981388693815918, abs=1e-7)
    assert objective.dpop(CHOSEN, REJECTED, 0.1, 10.0).item() == pytest.approx(0.5981388693815918, abs=1e-7)


def test_nll_is_per_token_over_the_whole_step():
    """Two replies of 3 and 5 tokens with log-probs -6 and -10: 16 / 8 = 2 nats a token (per pair it would be 2 and 2)."""
    assert objective.nll(torch.tensor([-6.0, -10.0]), 8).item() == 2.0


def test_step_zero_check_names_what_is_wrong():
    check_start({"dpo": math.log(2), "margin": 0.0})
    with pytest.raises(RuntimeError, match="expected ln 2"):
        check_start({"dpo": 0.6932, "margin": 0.0})


def test_masks_begin_at_the_first_reply_token_and_end_at_the_end_of_turn(tokenizer):
    prompt, reply = prompt_ids(tokenizer, HELLO), reply_ids(tokenizer, HELLO, "Hi", ended=True)
    batch = collate([Row(prompt=prompt, reply=reply), Row(prompt=prompt[:5], reply=[7])], pad_id=0)
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
        Row(prompt=prompt_ids(tokenizer, HELLO), reply=reply_ids(tokenizer, HELLO, text, ended=True))
        for text in ("Hi", "Good day to you.", "?")
    ]
    with torch.no_grad():
        together, _ = reply_logprobs(model, collate(rows, pad_id=0))
        for row, found in zip(rows, together, strict=True):
            ids = torch.tensor([[*row.prompt, *row.reply]])
            logp = model(ids).logits.log_softmax(-1)[0]
            start = len(row.prompt)
            plain = sum(logp[start - 1 + k, token] for k, token in enumerate(row.reply))
            assert found.item() == pytest.approx(plain.item(), rel=1e-12)


def planned(pairs, *, tokens_per_batch=200, pair_order="shuffled", seed=0):
    return plan(pairs, layout="shared", pairs_per_step=3, tokens_per_batch=tokens_per_batch, pair_order=pair_order, seed=seed)


def test_the_plan_holds_every_pair_once_and_does_not_depend_on_their_order(tokenizer):
    """A pair here computes 70 tokens (65 of its prompt, all but the last of 4 and of 3 in its replies), so 200 hold two."""
    pairs = tokenize(tokenizer, [pair(i) for i in range(7)])
    one, other = planned(pairs), planned(pairs[::-1])
    assert one.key == other.key
    assert sorted(i for batch in one.batches for i in batch) == list(range(7))
    assert [[len(batch) for batch in step] for step in one.steps] == [[2, 1], [2, 1], [1]]
    assert one.key != planned(pairs, seed=1).key
    assert [[len(batch) for batch in step] for step in planned(pairs, tokens_per_batch=1).steps] == [[1, 1, 1], [1, 1, 1], [1]]


def test_pairs_of_one_prompt_come_together_when_asked_to(tokenizer):
    pairs = tokenize(tokenizer, [pair(i % 3, chosen=f"yes {i}") for i in range(9)])
    assert [len({tuple(p.chosen.prompt) for p in one_step(planned(pairs, pair_order="by_prompt"), k)}) for k in range(3)] == [1] * 3
    assert sum(len({tuple(p.chosen.prompt) for p in one_step(planned(pairs), k)}) for k in range(3)) > 3


def one_step(found, number):
    return [found.pairs[i] for batch in found.steps[number] for i in batch]


def test_pairs_are_collated_chosen_first(tokenizer):
    rows = tokenize(tokenizer, [pair(1, "aa", "b"), pair(2, "c", "dd")])
    found = planned(rows, tokens_per_batch=1000)
    batch = collate(found.rows(found.batches[0]), pad_id=0)
    texts = [tokenizer.decode(ids[mask]) for ids, mask in zip(batch["input_ids"], batch["reply_mask"], strict=True)]
    assert [texts[:2], texts[2:]] in (
        [["aa<|im_end|>", "c<|im_end|>"], ["b<|im_end|>", "dd<|im_end|>"]],
        [["c<|im_end|>", "aa<|im_end|>"], ["dd<|im_end|>", "b<|im_end|>"]],
    )
    assert batch["reply_lengths"].tolist() == [int(mask.sum()) for mask in batch["reply_mask"]]
