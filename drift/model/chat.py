"""Chat rendering: from messages to token ids, always through the model's own template.

Text -> tokens -> text is demanded of every reply: prompt + reply, rendered whole, must begin with the rendered prompt, in text
and in tokens; what follows must be the reply's own text and then a control token, which is the end of turn. The reply's tokens
are the text's, and the end's if the reply `ended`: what is trained on is what is sampled from. A template that puts anything
else there (a thought, a channel, a role) is refused before weights load.

Control tokens that somebody wrote into a message are text. They are kept out of the rendering and of the tokenizer's sight, so
log text can't open a turn; where a template's border between turns is itself plain text, a message that holds it is refused.

A template reads no clock (`template.DATE` is today), so the same messages are the same tokens tomorrow.
"""

from typing import Any

from drift.errors import UserError
from drift.model.control import PROBE, PROBES, Controls, controls_of, encode
from drift.model.template import NotAPrefix, render
from drift.records import Prompt


def prompt_ids(tokenizer: Any, prompt: Prompt) -> list[int]:
    """Token ids of the prompt, generation prompt included. Raises NotAPrefix where the template can't render it."""
    messages, written = controls_of(tokenizer).hide(prompt)
    return encode(tokenizer, _asked(tokenizer, messages), written)


def reply_ids(tokenizer: Any, prompt: Prompt, reply: str, *, ended: bool) -> list[int]:
    """Token ids of the reply after `prompt`; with the end-of-turn token last if the reply `ended`. Raises NotAPrefix."""
    controls = controls_of(tokenizer)
    messages, written = controls.hide([*prompt, {"role": "assistant", "content": reply}])
    before = _asked(tokenizer, messages[:-1])
    whole = render(tokenizer, messages, generation=False)
    if not whole.startswith(before):
        raise NotAPrefix(f"the chat template renders the prompt differently once a reply follows: {before[-80:]!r}")
    said = _said(controls, whole[len(before) :], messages[-1]["content"], ended)
    ids, start = encode(tokenizer, before + said, written), encode(tokenizer, before, written)
    if ids[: len(start)] != start:
        raise NotAPrefix(f"a token spans the border of prompt and reply: {reply[:40]!r}")
    return ids[len(start) :]


def end_of_turn(tokenizer: Any) -> int:
    """The token that the template writes after a reply: training scores it, so sampling stops at it."""
    return reply_ids(tokenizer, PROBES["one turn"], PROBE, ended=True)[-1]


def _asked(tokenizer: Any, messages: Prompt) -> str:
    """The rendered prompt, which must hold what every message says, in order; of an assistant's thoughts only what follows."""
    text, place = render(tokenizer, messages, generation=True), 0
    for message in messages:
        content = message["content"].rpartition("</think>")[2] if message["role"] == "assistant" else message["content"]
        found = text.find(content.strip(), place)
        if found < 0:
            raise NotAPrefix(f"the chat template leaves out or rewrites the {message['role']}'s message {_short(content)}")
        place = found + len(content.strip())
    return text


def _said(controls: Controls, rest: str, content: str, ended: bool) -> str:
    """The reply's part of what the template writes after the prompt: the content, and its end if it `ended`."""
    end = controls.special.search(rest)
    said = rest[: end.start()] if end else rest
    if said.strip() != content.strip():
        raise NotAPrefix(f"the chat template writes {_short(rest)} where the reply is {_short(content)}")
    if end is None:
        raise NotAPrefix("the chat template ends a reply without a control token")
    if ended:
        return rest[: end.end()]
    return said if said.endswith(content) else said.rstrip()  # white space before the end belongs to the end


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:28]} ... {text[-28:]}")


def check_template(tokenizer: Any, directory: Any, *, system: bool) -> None:
    """Refuses a tokenizer whose template is missing or can't be used for training, before any weight is loaded. `system`: the data
    begins its prompts with a system message, so that the template must take one."""
    if not tokenizer.chat_template:
        raise UserError(f"The tokenizer in {directory} has no chat template. Use an instruct model, or add chat_template.jinja.")
    for name, prompt in PROBES.items():
        try:
            _round_trip(tokenizer, prompt)
        except NotAPrefix as error:
            if prompt[0]["role"] != "system":
                raise UserError(
                    f"The chat template in {directory} can't be used for training: with {name}, {error}. Prompt and reply must be "
                    "rendered as the model is asked and answers. If the template has a switch for it, set it under model.template "
                    "(model.template.enable_thinking, for one); else use another model."
                ) from error
            if system:
                raise UserError(
                    f"The chat template in {directory} takes no system message, and data.system sends one: with {name}, {error}. "
                    "Set data.system=null."
                ) from error


def _round_trip(tokenizer: Any, prompt: Prompt) -> None:
    """Raises NotAPrefix unless the tokens of prompt and reply say what the messages say."""
    text = tokenizer.decode(prompt_ids(tokenizer, prompt))
    if lost := [message["content"] for message in prompt if message["content"] not in text]:
        raise NotAPrefix(f"the tokens of the prompt lose the message {lost[0]!r}: {_short(text)}")
    for ended in (True, False):
        ids = reply_ids(tokenizer, prompt, PROBE, ended=ended)
        end = tokenizer.decode(ids[-1:]) if ended else ""
        if tokenizer.decode(ids).strip() != PROBE + end:
            raise NotAPrefix(f"the tokens of the reply {PROBE!r} say {tokenizer.decode(ids)!r}")
