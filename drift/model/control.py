"""Control tokens that a user typed into a message are plain text: they are hidden from the template and the tokenizer."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from drift.model.template import NotAPrefix, render
from drift.records import Prompt

FIRST_STAND_IN = 0xF0000  # private-use characters, unknown to tokenizers and templates

PROBE = "Good day, Zoë:\n1 < 2!"
_SYSTEM, _USER = {"role": "system", "content": "Be brief today."}, {"role": "user", "content": "Who goes there?"}
_EARLIER = [{"role": "user", "content": "Is it late?"}, {"role": "assistant", "content": "Not at all."}]
PROBES: dict[str, list[dict[str, str]]] = {
    "one turn": [_USER],
    "several turns": [*_EARLIER, _USER],
    "a system message": [_SYSTEM, _USER],
    "a system message and several turns": [_SYSTEM, *_EARLIER, _USER],
}


@dataclass(frozen=True)
class Controls:
    """What text in a message must not be mistaken for. `special`: the control tokens (`ids`). `users`: those, and other tokens of
    the template (`<think>`), which a model may write but a user never means. `borders`: plain text that a template writes between
    turns."""

    special: re.Pattern[str]
    ids: frozenset[int]
    users: re.Pattern[str]
    borders: tuple[str, ...]

    def hide(self, messages: Prompt) -> tuple[list[dict[str, str]], dict[str, str]]:
        """(the messages with every control token in their texts replaced by a stand-in, stand-in -> token)."""
        for message in messages:
            if border := next((border for border in self.borders if border in message["content"]), None):
                raise NotAPrefix(f"a message contains {border!r}, which the chat template itself writes between turns")
        patterns = [self.special if message["role"] == "assistant" else self.users for message in messages]
        found = {token for message, tokens in zip(messages, patterns, strict=True) for token in tokens.findall(message["content"])}
        if not found:
            return list(messages), {}
        text = "".join(message["content"] for message in messages)
        free = (char for code in range(FIRST_STAND_IN, FIRST_STAND_IN + 0xFFFE) if (char := chr(code)) not in text)
        stand_in = dict(zip(sorted(found), free, strict=False))
        hidden = [
            dict(message) | {"content": tokens.sub(lambda match: stand_in[match.group()], message["content"])}
            for message, tokens in zip(messages, patterns, strict=True)
        ]
        return hidden, {char: token for token, char in stand_in.items()}


def controls_of(tokenizer: Any) -> Controls:
    return _controls(tokenizer, tokenizer.chat_template)


@lru_cache(maxsize=4)
def _controls(tokenizer: Any, template: str) -> Controls:
    added = tokenizer.added_tokens_decoder.values()
    special = {token.content for token in added if token.special} | set(tokenizer.all_special_tokens)
    structure = {token.content for token in added if token.content.strip() and token.content in template}
    pattern = _any_of(special)
    ids = frozenset(tokenizer.convert_tokens_to_ids(sorted(special))) - {tokenizer.unk_token_id}  # unknown text is no control token
    return Controls(pattern, ids, _any_of(special | structure), _borders(tokenizer, pattern))


def _any_of(tokens: set[str]) -> re.Pattern[str]:
    longest_first = sorted(filter(None, tokens), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")


def _borders(tokenizer: Any, special: re.Pattern[str]) -> tuple[str, ...]:
    """What the template writes between two messages, if that contains no control token."""
    found = set()
    for prompt in PROBES.values():
        try:
            text = render(tokenizer, [*prompt, {"role": "assistant", "content": PROBE}], generation=False)
        except NotAPrefix:  # reported by check_template
            continue
        for before, after in zip(prompt, [*prompt[1:], {"content": PROBE}], strict=True):
            begin = text.find(before["content"])
            end = text.find(after["content"], begin)
            between = text[begin + len(before["content"]) : end] if -1 not in (begin, end) else ""
            if not special.search(between):
                found.add(between.strip())
    return tuple(sorted(found - {""}))


def encode(tokenizer: Any, text: str, written: Mapping[str, str]) -> list[int]:
    """Token ids of a rendered text, whose control tokens are the template's own. `written`: stand-in -> token that was typed as
    text; it is encoded in two parts, so that neither is the control token."""
    if not written:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    else:
        pieces = [part for piece in re.split(f"([{''.join(written)}])", text) for part in _parts(written.get(piece), piece)]
        ids = [i for piece in pieces for i in tokenizer(piece, add_special_tokens=False)["input_ids"]]
        plain = re.sub(f"[{''.join(written)}]", lambda match: written[match.group()], text)
        if tokenizer.decode(ids) != tokenizer.decode(tokenizer(plain, add_special_tokens=False)["input_ids"]):
            raise NotAPrefix(f"a message contains {', '.join(written.values())}, which this tokenizer can't encode as text")
    controls = controls_of(tokenizer)
    if sum(i in controls.ids for i in ids) != sum(1 for found in controls.special.findall(text) if found != tokenizer.unk_token):
        raise NotAPrefix("a message contains text that this tokenizer takes for a control token")
    return ids


def _parts(token: str | None, piece: str) -> list[str]:
    return [part for part in ([piece] if token is None else [token[:1], token[1:]]) if part]
