"""The messages of a row, checked: alternating roles, non-empty texts, the system prompt first, tool calls left out."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from drift.intake.aside import CORRECT, SHOWN, BadRow, printable
from drift.intake.fields import decode_list, is_empty
from drift.records import Message

INVISIBLE = " \t\r\n\u200b\u200c\u200d\ufeff"  # some ShareGPT replies are nothing but a zero-width space
ROLES = {
    "system": "system", "developer": "system", "user": "user", "human": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "bing": "assistant", "bard": "assistant",
    "function_call": "call", "tool_call": "call",
    "tool": "tool", "function": "tool", "observation": "tool", "tool_response": "tool", "ipython": "tool",
}  # fmt: skip
NEXT = {None: ("system", "user"), "system": ("user",), "user": ("assistant",), "assistant": ("user",)}
TEXTS = ("text", "input_text", "output_text")  # types of text parts, in OpenAI's two interfaces
SYSTEM = ("system", "system_prompt", "system_message")  # fields of a row for the system prompt


@dataclass(frozen=True, kw_only=True)
class Turns:
    """`messages`: of user and assistant, with or without a system message first. `places`: for each item of the row's list, the
    index in `messages` that it became (None: left out). `from_tools`: the replies that rest on tool results."""

    messages: list[Message]
    places: list[int | None]
    from_tools: frozenset[int]


def to_turns(rows: Any, *, role: str, content: str, field: str, system: Mapping[str, Any] | None = None) -> Turns:
    """The checked messages of a list of {role: …, content: …}; raises BadRow with the first wrong field. Content may be a list of
    parts, as in OpenAI's format: text parts are joined, anything else is refused. Tool calls and their results are left out; what
    the assistant says around them becomes one reply. `system`: the row, if its system prompt may be in a field of its own."""
    rows = decode_list(rows, role)
    if not isinstance(rows, list) or not rows:
        raise BadRow(field, f"a list of {{{role}, {content}}}", quote(rows))
    messages, places, from_tools = system_message(system or {}), [], set()
    given = len(messages)
    said: list[str] | None = None  # while a tool call is open: what the assistant has said so far
    for i, row in enumerate(rows):
        who, at = _speaker(row, role, f"{field}[{i}]"), f"{field}[{i}].{content}"
        last = messages[-1]["role"] if messages else None
        if (who in ("calling", "call") and last == "user") or (who == "tool" and said is not None):
            said = said or []
            if who == "calling" and not is_empty(row.get(content)):
                said.append(to_text(row[content], at))
            places.append(len(messages))
            continue
        if said is not None and who == "user":
            _end_tool_call(messages, from_tools, said, f"{field}[{i}].{role}")
            said, last = None, "assistant"
        repeated = who == "system" and i == 0 and given == 1
        if who not in NEXT[last] and not repeated:
            raise BadRow(f"{field}[{i}].{role}", " or ".join(NEXT[last]), quote(row.get(role)), remedy=_in_turn(who, last))
        text = to_text(row.get(content), at)
        if repeated:
            if text != messages[0]["content"]:
                raise BadRow(at, "one system prompt", "a different one beside the turns")
            places.append(0)
            continue
        if said is not None:
            from_tools.add(len(messages))
            text, said = "\n\n".join([*said, text]), None
        places.append(len(messages))
        messages.append({"role": str(who), "content": text})
    if said:
        _end_tool_call(messages, from_tools, said, field)
    held = [at if at < len(messages) else None for at in places]
    return Turns(messages=messages, places=held, from_tools=frozenset(from_tools))


def _in_turn(who: str | None, last: str | None) -> str:
    """What to do with a message that follows one by `last` (None: with the first one)."""
    if who is None:
        return "rename the role: system, user, assistant or tool"
    if who == last:
        return "join messages of one speaker that follow one another"
    return "leave a greeting out, or put it into the system prompt" if who == "assistant" else CORRECT


def _speaker(row: Any, role: str, field: str) -> str | None:
    """The speaker of a message: one of the values of ROLES, "calling" for an assistant message with tool calls, None if unknown."""
    if not isinstance(row, dict):
        raise BadRow(field, f"{{{role}, …}}", quote(row))
    name = row.get(role)
    who = ROLES.get(name.lower()) if isinstance(name, str) else None
    calls = who == "assistant" and any(not is_empty(row[key]) for key in ("tool_calls", "function_call") if key in row)
    return "calling" if calls else who


def _end_tool_call(messages: list[Message], from_tools: set[int], said: list[str], field: str) -> None:
    """Closes a tool call that no reply follows; what the assistant said around it becomes the reply."""
    if not said:
        raise BadRow(field, "a reply after the tool call", "user", reason="tool call", remedy="add the reply, or leave the row out")
    from_tools.add(len(messages))
    messages.append({"role": "assistant", "content": "\n\n".join(said)})


def to_messages(rows: Any, *, role: str, content: str, field: str, system: Mapping[str, Any] | None = None) -> list[Message]:
    """Like `to_turns`, for a prompt: tool calls are refused, because the reply would rest on their results."""
    turns = to_turns(rows, role=role, content=content, field=field, system=system)
    if turns.from_tools or None in turns.places:
        raise BadRow(field, "messages without tool calls", "tool calls", reason="tool call", remedy="leave the row out")
    return turns.messages


def system_message(row: Mapping[str, Any]) -> list[Message]:
    """The system message of a row with a system prompt in a field of its own; an empty list if there is none."""
    given = {name: to_text(row[name], name) for name in SYSTEM if not is_empty(row.get(name))}
    if len(set(given.values())) > 1:
        raise BadRow(next(iter(given)), "one system prompt", f"different ones in {' and '.join(given)}")
    return [{"role": "system", "content": text} for text in list(given.values())[:1]]


def one_reply(value: Any, side: str, prompt: list[Message], *, role: str, content: str) -> str:
    """The text of one side of a pair: a single reply by the assistant, alone or after the prompt's messages; raises BadRow."""
    value = decode_list(value, role)
    messages = value if isinstance(value, list) else [value]
    expected = f"one reply: [{{{role!r}: 'assistant', {content!r}: text}}]"
    if not messages or not all(isinstance(message, dict) for message in messages):
        raise BadRow(side, expected, quote(value))
    last = messages[-1]
    if ROLES.get(str(last.get(role, "assistant")).lower()) != "assistant":
        raise BadRow(f"{side}[{len(messages) - 1}].{role}", "assistant", quote(last.get(role)))
    if len(messages) > 1:
        before = to_messages(messages[:-1], role=role, content=content, field=side)
        if before != prompt[len(prompt) - len(before) :]:
            raise BadRow(side, f"{expected}, alone or after the messages of the prompt", f"{len(messages)} messages")
    return to_text(last.get(content), f"{side}[{len(messages) - 1}].{content}")


def require_user_last(messages: list[Message], field: str) -> list[Message]:
    """The messages, if the last one is the user's; raises BadRow otherwise."""
    if messages[-1]["role"] != "user":
        raise BadRow(field, "a last message by the user", messages[-1]["role"])
    return messages


def to_text(value: Any, field: str) -> str:
    """Checked non-empty text; raises BadRow."""
    if isinstance(value, str) and isinstance(parts := decode_list(value, "type"), list):  # a list of parts, stored as text
        value = parts if any(part["type"] in TEXTS for part in parts) else value  # or JSON that somebody wrote
    if isinstance(value, list):
        parts = [part.get("text") if isinstance(part, dict) and part.get("type", "text") in TEXTS else None for part in value]
        if not parts or not all(isinstance(part, str) for part in parts):
            raise BadRow(field, "text, or a list of text parts", quote(value))
        value = "\n".join(parts)  # type: ignore[arg-type]
    if not isinstance(value, str) or not value.strip(INVISIBLE):
        raise BadRow(field, "text that is not empty", quote(value))
    if printable(value) != value:
        raise BadRow(field, "text in valid Unicode", "half of a surrogate pair")
    return value.strip(INVISIBLE)


def quote(value: Any) -> str:
    """A value as error messages show it: its type and a short form."""
    return "nothing" if value is None else f"{type(value).__name__} {printable(value)[:SHOWN]!r}"
