"""Chat rendering: from messages to token ids, always through the model's own template.

Every reply must survive the round trip: prompt + reply, rendered together, must begin with the rendered prompt, in text and in
tokens; what follows must be the reply's own text and a control token, the end of turn. The reply's tokens are those of the text,
plus the end of turn if the reply `ended`, so training sees exactly what sampling produces. A template that writes anything else
there (a thought, a channel, a role) is refused before weights load.

Control tokens that a user typed into a message are plain text. They are hidden from the template and the tokenizer, so log text
can't open a turn; if a template separates turns with plain text, a message that contains that text is refused.

Templates have a fixed clock (`template.DATE`), so the same messages give the same tokens tomorrow.
"""

from typing import Any

from drift.errors import UserError
from drift.model.control import PROBE, PROBES, Controls, controls_of, encode
from drift.model.template import NotAPrefix, render
from drift.records import Prompt


def prompt_ids(tokenizer: Any, prompt: Prompt) -> list[int]:
    """Token ids of the prompt, generation prompt included. Raises NotAPrefix if the template can't render it."""
    messages, written = controls_of(tokenizer).hide(prompt)
    return encode(tokenizer, _render_prompt(tokenizer, messages), written)


def reply_ids(tokenizer: Any, prompt: Prompt, reply: str, *, ended: bool) -> list[int]:
    """Token ids of the reply after `prompt`, plus the end-of-turn token if the reply `ended`. Raises NotAPrefix."""
    controls = controls_of(tokenizer)
    messages, written = controls.hide([*prompt, {"role": "assistant", "content": reply}])
    before = _render_prompt(tokenizer, messages[:-1])
    whole = render(tokenizer, messages, generation=False)
    if not whole.startswith(before):
        raise NotAPrefix(f"the chat template renders the prompt differently when a reply follows: {before[-80:]!r}")
    reply_text = _reply_text(controls, whole[len(before) :], messages[-1]["content"], ended)
    ids, start = encode(tokenizer, before + reply_text, written), encode(tokenizer, before, written)
    if ids[: len(start)] != start:
        raise NotAPrefix(f"a token spans the border of prompt and reply: {reply[:40]!r}")
    return ids[len(start) :]


def conversation_ids(tokenizer: Any, messages: Prompt) -> list[int]:
    """Token ids of a whole conversation, ended as the template ends it. Raises NotAPrefix if the template can't render it."""
    hidden, written = controls_of(tokenizer).hide(messages)
    return encode(tokenizer, _all_in_order(render(tokenizer, hidden, generation=False), hidden), written)


def end_of_turn(tokenizer: Any) -> int:
    """The token that the template writes after a reply: training scores it, so sampling stops at it."""
    return reply_ids(tokenizer, PROBES["one turn"], PROBE, ended=True)[-1]


def _render_prompt(tokenizer: Any, messages: Prompt) -> str:
    return _all_in_order(render(tokenizer, messages, generation=True), messages)


def _all_in_order(text: str, messages: Prompt) -> str:
    """The rendered text. Raises NotAPrefix unless it contains every message in order (without an assistant's thoughts)."""
    place = 0
    for message in messages:
        content = message["content"].rpartition("</think>")[2] if message["role"] == "assistant" else message["content"]
        found = text.find(content.strip(), place)
        if found < 0:
            raise NotAPrefix(f"the chat template leaves out or rewrites the {message['role']}'s message {_short(content)}")
        place = found + len(content.strip())
    return text


def _reply_text(controls: Controls, rest: str, content: str, ended: bool) -> str:
    """What the template writes for the reply: its content, and the end of turn if it `ended`."""
    end = controls.special.search(rest)
    text = rest[: end.start()] if end else rest
    if text.strip() != content.strip():
        raise NotAPrefix(f"the chat template writes {_short(rest)} where the reply is {_short(content)}")
    if end is None:
        raise NotAPrefix("the chat template ends a reply without a control token")
    if ended:
        return rest[: end.end()]
    return text if text.endswith(content) else text.rstrip()  # white space before the end belongs to the end


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:28]} ... {text[-28:]}")


def check_template(tokenizer: Any, directory: Any, *, system: bool) -> None:
    """Refuses a tokenizer whose template is missing or can't be used for training, before any weight is loaded. `system`: whether
    the prompts have a system message, which the template must then accept."""
    if not tokenizer.chat_template:
        raise UserError(f"The tokenizer in {directory} has no chat template. Use an instruct model, or add chat_template.jinja.")
    for name, prompt in PROBES.items():
        try:
            _round_trip(tokenizer, prompt)
        except NotAPrefix as error:
            if prompt[0]["role"] != "system":
                raise UserError(
                    f"The chat template in {directory} can't be used for training: with {name}, {error}. Training needs prompt "
                    "and reply rendered exactly as in sampling. If the template has a switch for this, set it under model.template "
                    "(for example model.template.enable_thinking); otherwise use another model."
                ) from error
            if system:
                raise UserError(
                    f"The chat template in {directory} takes no system message, but data.system sends one: with {name}, {error}. "
                    "Set data.system=null."
                ) from error


def _round_trip(tokenizer: Any, prompt: Prompt) -> None:
    """Raises NotAPrefix unless the tokens of prompt and reply decode to the text of the messages."""
    text = tokenizer.decode(prompt_ids(tokenizer, prompt))
    if lost := [message["content"] for message in prompt if message["content"] not in text]:
        raise NotAPrefix(f"the tokens of the prompt lose the message {lost[0]!r}: {_short(text)}")
    for ended in (True, False):
        ids = reply_ids(tokenizer, prompt, PROBE, ended=ended)
        end = tokenizer.decode(ids[-1:]) if ended else ""
        if tokenizer.decode(ids).strip() != PROBE + end:
            raise NotAPrefix(f"the tokens of the reply {PROBE!r} say {tokenizer.decode(ids)!r}")
