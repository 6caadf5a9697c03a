"""Runs chat templates, which are foreign programs: their arguments, their clock, their errors and their limits.

jinja's sandbox keeps a template from files and from Python. It could still loop forever or produce a huge text, so every rendering
is limited in computing time, memory and length, relative to the length of the messages."""

import datetime
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from drift.errors import UserError
from drift.model.bounds import TooLong, bounded
from drift.records import Prompt

DATE = datetime.date(2024, 7, 26)  # the date that templates see: Llama 3's own default
MAX_TEMPLATE = 2**20  # characters; the largest known have some 30,000
SECONDS, MEMORY, TEXT = (
    5.0,
    2**29,
    2**17,
)  # a rendering takes about a millisecond and a megabyte, and adds a few thousand characters
RESERVED = {"messages", "tools", "documents", "add_generation_prompt", "strftime_now", "raise_exception"}


class NotAPrefix(ValueError):
    """The rendered prompt is not a prefix of the rendered conversation, or the rest is not the reply and the end of turn: the reply
    can't be trained on as it is sampled."""


def with_arguments(template: str, arguments: Mapping[str, Any], where: Any) -> str:
    """The chat template with `model.template`'s arguments set at its top, for every rendering. An argument that the template does
    not use is refused, except `enable_thinking`, which is passed to every model."""
    read = {name for name in arguments if re.search(rf"\b{name}\b", template)}
    for name in arguments:
        if name not in read and name != "enable_thinking":
            raise UserError(f"model.template.{name}: the chat template in {where} does not use {name}. Leave it out.")
    return "".join(f"{{% set {name} = {value!r} %}}\n" for name, value in arguments.items() if name in read) + template


def check_form(template: Any, where: Any) -> None:
    """Refuses a chat template that is not text, or is longer than any real template."""
    if not isinstance(template, str):
        raise UserError(f"The chat template in {where} is not text but {type(template).__name__}. Fetch or write the file again.")
    if len(template) > MAX_TEMPLATE:
        raise UserError(f"The chat template in {where} has {len(template)} characters, expected at most {MAX_TEMPLATE}.")


def check_arguments(arguments: Any) -> None:
    """Refuses a `model.template` that is not a mapping of names to plain values."""
    if not isinstance(arguments, dict):
        raise UserError(
            f"model.template={arguments}: expected a mapping of arguments to values, such as {{enable_thinking: false}}."
        )
    for name, value in arguments.items():
        if not str(name).isidentifier() or name in RESERVED:
            raise UserError(f"model.template.{name}: expected the name of an argument for the chat template.")
        if not isinstance(value, (str, bool, int, float, list, dict)):
            raise UserError(f"model.template.{name}={value}: expected text, a number, true or false, a list or a mapping.")


@lru_cache(maxsize=16)
def _with_fixed_date(template: str) -> str:
    """The template with the clock stopped at DATE."""
    if "strftime_now" in template:
        letters = [f"%{flag}{letter}" for letter in "aAbBcdDeFGHIjmMpSTuUVwWxXyYzZ" for flag in ("-", "")]
        fixed = "".join(f"|replace({code!r}, {DATE.strftime(code)!r})" for code in letters)
        template = f"{{% macro strftime_now(format) %}}{{{{ format{fixed} }}}}{{% endmacro %}}\n{template}"
    if "date_string" in template:
        template = f"{{% set date_string = {DATE.strftime('%d %b %Y')!r} %}}\n{template}"
    return template


def render(tokenizer: Any, messages: Prompt, *, generation: bool) -> str:
    """The messages rendered by the template. Raises NotAPrefix if it fails, UserError if it exceeds the limits."""
    template, length = _with_fixed_date(tokenizer.chat_template), sum(len(message["content"]) for message in messages)
    try:
        with bounded(seconds=SECONDS + length / 1e5, memory=MEMORY + 100 * length):
            text = tokenizer.apply_chat_template(
                list(messages), chat_template=template, tokenize=False, add_generation_prompt=generation
            )
    except TooLong:
        raise _out_of_bounds(tokenizer, messages, length, f"more than {SECONDS:g} s") from None
    except MemoryError:
        raise _out_of_bounds(tokenizer, messages, length, f"more than {MEMORY // 2**20} MiB of memory") from None
    except Exception as error:  # whatever a template raises means that it can't render these messages
        raise NotAPrefix(f"the chat template fails with {type(error).__name__}: {str(error)[:300]}") from error
    if len(text) > TEXT + 20 * length:
        raise _out_of_bounds(tokenizer, messages, length, f"a text of {len(text)} characters")
    return text


def _out_of_bounds(tokenizer: Any, messages: Prompt, length: int, took: str) -> UserError:
    return UserError(
        f"The chat template in {tokenizer.name_or_path} does not finish or grows out of bounds: for {len(messages)} messages with "
        f"{length} characters in total it took {took}. Use the template that belongs to the model, or another model."
    )
