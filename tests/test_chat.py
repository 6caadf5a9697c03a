"""Chat templates: the prompt is a prefix of the conversation, and a default system message stays out of the reply."""

import pytest

from drift.errors import UserError
from drift.model.chat import NotAPrefix, check_template, prompt_ids, reply_ids

SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n"
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
HELLO = [{"role": "user", "content": "Hello?"}]


def qwen_template():
    """TRL carries a copy of Qwen2.5's template."""
    from pathlib import Path

    import trl

    files = sorted(Path(trl.__file__).parent.glob("chat_templates/qwen2_5*.jinja"))
    return next(file.read_text() for file in files if "training" not in file.name)


@pytest.mark.parametrize("name", ["smollm2", "qwen2.5"])
def test_default_system_message_stands_in_the_prompt_and_not_in_the_reply(tokenizer, name):
    tokenizer.chat_template = SMOLLM2 if name == "smollm2" else qwen_template()
    prompt = tokenizer.decode(prompt_ids(tokenizer, HELLO))
    reply = tokenizer.decode(reply_ids(tokenizer, HELLO, "Good day.", ended=True))
    assert prompt.startswith("<|im_start|>system\nYou are ")
    assert prompt.endswith("<|im_start|>user\nHello?<|im_end|>\n<|im_start|>assistant\n")
    assert reply == "Good day.<|im_end|>"


def test_several_turns_and_a_system_message_of_the_users_own(tokenizer):
    talk = [{"role": "system", "content": "Be brief."}, *HELLO, {"role": "assistant", "content": "Hi."}, *HELLO]
    assert tokenizer.decode(prompt_ids(tokenizer, talk)).count("<|im_start|>system") == 1
    assert tokenizer.decode(reply_ids(tokenizer, talk, "Yes?", ended=True)) == "Yes?<|im_end|>"


def test_a_template_that_changes_the_prompt_once_a_reply_follows_is_refused(tokenizer):
    tokenizer.chat_template = "{{ messages | length }}{% for m in messages %}{{ m['content'] }}<|im_end|>{% endfor %}"
    with pytest.raises(NotAPrefix):
        reply_ids(tokenizer, HELLO, "Hi.", ended=True)
    with pytest.raises(UserError, match="can't be used for training"):
        check_template(tokenizer, "DIR", system=False)


def test_a_missing_template_is_refused_with_what_to_do(tokenizer):
    tokenizer.chat_template = None
    with pytest.raises(UserError, match="no chat template"):
        check_template(tokenizer, "DIR", system=False)


@pytest.fixture(autouse=True)
def restore(tokenizer):
    before = tokenizer.chat_template
    yield
    tokenizer.chat_template = before
