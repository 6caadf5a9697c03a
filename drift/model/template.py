"""A chat template as a program of somebody else's: its arguments, its clock, what it raises, and what it may take.

jinja's sandbox keeps it from files and from Python. It may still loop without end, or make a text that no memory holds: every
rendering is bounded in computing time, memory and length, relative to what the messages say.
"""

import datetime
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from drift.errors import UserError
from drift.model.bounds import TooLong, bounded
from drift.records import Prompt

DATE = datetime.date(2024, 7, 26)  # today, for templates: Llama 3's own where nobody names a date
MOST_TEMPLATE = 2**20  # characters; the largest known have some 30,000
SECONDS, MEMORY, TEXT = 5.0, 2**29, 2**17  # a rendering takes a millisecond, a megabyte, and writes some thousand characters itself
RESERVED = {"messages", "tools", "documents", "add_generation_prompt", "strftime_now", "raise_exception"}


class NotAPrefix(ValueError):
    """The rendered prompt is not a prefix of the rendered conversation, or the rest is not the reply and its end: this reply can't
    be trained on as sampled."""


def with_arguments(template: str, arguments: Mapping[str, Any], where: Any) -> str:
    """The chat template with `model.template`'s arguments set at its top, so that every rendering has them. An argument that the
    template does not read is refused, except `enable_thinking`, which every model gets."""
    read = {name for name in arguments if re.search(rf"\b{name}\b", template)}
    for name in arguments:
        if name not in read and name != "enable_thinking":
            raise UserError(f"model.template.{name}: the chat template in {where} does not read {name}. Leave it out.")
    return "".join(f"{{% set {name} = {value!r} %}}\n" for name, value in arguments.items() if name in read) + template


def check_form(template: Any, where: Any) -> None:
    """Refuses a chat template that is no text, or more text than any template has."""
    if not isinstance(template, str):
        raise UserError(f"The chat template in {where} is no text, but {type(template).__name__}. Fetch or write the file again.")
    if len(template) > MOST_TEMPLATE:
        raise UserError(f"The chat template in {where} has {len(template)} characters, expected at most {MOST_TEMPLATE}.")


def check_arguments(arguments: Any) -> None:
    """Refuses a `model.template` that is no mapping of names to plain values."""
    if not isinstance(arguments, dict):
        raise UserError(f"model.template={arguments}: expected a mapping of arguments to values, as {{enable_thinking: false}}.")
    for name, value in arguments.items():
        if not str(name).isidentifier() or name in RESERVED:
            raise UserError(f"model.template.{name}: expected the name of an argument that chat templates read.")
        if not isinstance(value, (str, bool, int, float, list, dict)):
            raise UserError(f"model.template.{name}={value}: expected text, a number, true or false, a list or a mapping.")


@lru_cache(maxsize=16)
def _dated(template: str) -> str:
    """The template with the clock stopped at DATE."""
    if "strftime_now" in template:
        letters = [f"%{flag}{letter}" for letter in "aAbBcdDeFGHIjmMpSTuUVwWxXyYzZ" for flag in ("-", "")]
        fixed = "".join(f"|replace({code!r}, {DATE.strftime(code)!r})" for code in letters)
        template = f"{{% macro strftime_now(format) %}}{{{{ format{fixed} }}}}{{% endmacro %}}\n{template}"
    if "date_string" in template:
        template = f"{{% set date_string = {DATE.strftime('%d %b %Y')!r} %}}\n{template}"
    return template


def render(tokenizer: Any, messages: Prompt, *, generation: bool) -> str:
    """The messages as the template writes them. Raises NotAPrefix where it can't, UserError where it takes too much."""
    template, said = _dated(tokenizer.chat_template), sum(len(message["content"]) for message in messages)
    try:
        with bounded(seconds=SECONDS + said / 1e5, memory=MEMORY + 100 * said):
            text = tokenizer.apply_chat_template(
                list(messages), chat_template=template, tokenize=False, add_generation_prompt=generation
            )
    except TooLong:
        raise _endless(tokenizer, messages, said, f"more than {SECONDS:g} s") from None
    except MemoryError:
        raise _endless(tokenizer, messages, said, f"more than {MEMORY // 2**20} MiB of memory") from None
    except Exception as error:  # a template is a program of somebody else's: whatever it raises says that it can't render this
        raise NotAPrefix(f"the chat template fails with {type(error).__name__}: {str(error)[:300]}") from error
    if len(text) > TEXT + 20 * said:
        raise _endless(tokenizer, messages, said, f"a text of {len(text)} characters")
    return text


def _endless(tokenizer: Any, messages: Prompt, said: int, took: str) -> UserError:
    return UserError(
        f"The chat template in {tokenizer.name_or_path} does not end, or explodes: for {len(messages)} messages of {said} "
        f"characters together it took {took}. Use the template that belongs to the model, or another model."
    )
