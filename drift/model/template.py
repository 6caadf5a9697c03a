"""A chat template as a program of somebody else's: its arguments, its clock, and what it raises."""

import datetime
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from drift.errors import UserError
from drift.records import Prompt

DATE = datetime.date(2024, 7, 26)  # today, for templates: Llama 3's own where nobody names a date
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
    template = _dated(tokenizer.chat_template)
    try:
        return tokenizer.apply_chat_template(
            list(messages), chat_template=template, tokenize=False, add_generation_prompt=generation
        )
    except Exception as error:  # a template is a program of somebody else's: whatever it raises says that it can't render this
        raise NotAPrefix(f"the chat template fails with {type(error).__name__}: {error}") from error
