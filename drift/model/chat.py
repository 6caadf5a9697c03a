"""Chat rendering: from messages to token ids, always through the model's own template.

The prompt is rendered with the generation prompt; prompt + reply is rendered whole and must begin with it, in text and in
tokens; the reply's tokens are the rest, up to and including the end-of-turn token. So what is trained on is what is
sampled from, and a default system message never lands inside a reply.
"""

from typing import Any

from drift.errors import UserError
from drift.records import Prompt


class NotAPrefix(ValueError):
    """The rendered prompt is not a prefix of the rendered conversation: this reply can't be trained on as sampled."""


def prompt_ids(tokenizer: Any, prompt: Prompt) -> list[int]:
    """Token ids of the prompt, generation prompt included."""
    return _encode(tokenizer, _text(tokenizer, prompt, generation=True))


def reply_ids(tokenizer: Any, prompt: Prompt, reply: str, *, ended: bool) -> list[int]:
    """Token ids of the reply after `prompt`; with the end-of-turn token last if the reply `ended`."""
    before = _text(tokenizer, prompt, generation=True)
    whole = _text(tokenizer, [*prompt, {"role": "assistant", "content": reply}], generation=False)
    if not whole.startswith(before):
        raise NotAPrefix(f"the chat template renders the prompt differently once a reply follows: {before[-80:]!r}")
    ids, start = _encode(tokenizer, whole), _encode(tokenizer, before)
    if ids[: len(start)] != start:
        raise NotAPrefix(f"a token spans the border of prompt and reply: {reply[:40]!r}")
    ids = ids[len(start) :]
    if tokenizer.eos_token_id not in ids:
        raise NotAPrefix(f"the chat template ends a reply without {tokenizer.eos_token!r}")
    end = len(ids) - 1 - ids[::-1].index(tokenizer.eos_token_id)  # the template may add a newline after it
    return ids[: end + 1] if ended else ids[:end]


def check_template(tokenizer: Any, directory: Any) -> None:
    """Refuses a tokenizer whose template is missing or can't be used for training, before any weight is loaded."""
    if not tokenizer.chat_template:
        raise UserError(f"The tokenizer in {directory} has no chat template. Use an instruct model, or add chat_template.jinja.")
    try:
        reply_ids(tokenizer, [{"role": "user", "content": "Hello."}], "Good day.", ended=True)
    except NotAPrefix as error:
        raise UserError(f"The chat template in {directory} can't be used for training: {error}.") from error


def _text(tokenizer: Any, messages: Prompt, *, generation: bool) -> str:
    return tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=generation)


def _encode(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]
