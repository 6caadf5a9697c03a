"""The messages of a row, checked: roles in turn, texts that are not empty, a system prompt first, tool calls left out."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from drift.intake.aside import BadRow, printable
from drift.intake.fields import decoded, empty
from drift.records import Message

INVISIBLE = " \t\r\n\u200b\u200c\u200d\ufeff"  # some replies of ShareGPT hold nothing but a zero-width space
ROLES = {
    "system": "system", "developer": "system", "user": "user", "human": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "bing": "assistant", "bard": "assistant",
    "function_call": "call", "tool_call": "call",
    "tool": "tool", "function": "tool", "observation": "tool", "tool_response": "tool", "ipython": "tool",
}  # fmt: skip
NEXT = {None: ("system", "user"), "system": ("user",), "user": ("assistant",), "assistant": ("user",)}
SYSTEM = ("system", "system_prompt", "system_message")  # a row's fields that hold the system prompt


@dataclass(frozen=True, kw_only=True)
class Turns:
    """`messages`: those of users and assistants, a system message first or not. `places`: for every row, the index in `messages` of
    what it became (None: nothing). `from_tools`: replies that rest on a tool's results."""

    messages: list[Message]
    places: list[int | None]
    from_tools: frozenset[int]


def to_turns(rows: Any, *, role: str, content: str, field: str, system: Mapping[str, Any] | None = None) -> Turns:
    """The checked messages of a list of {role: …, content: …}; raises BadRow naming the first field that is wrong. Content may be a
    list of parts, as in OpenAI's format: texts are joined, anything else is refused. Tool calls and their results are left out; all
    that the assistant says around them is one reply. `system`: the row, if its system prompt may stand beside the turns."""
    rows = decoded(rows, role)
    if not isinstance(rows, list) or not rows:
        raise BadRow(field, f"a list of {{{role}, {content}}}", found(rows))
    messages, places, from_tools = beside(system or {}), [], set()
    given = len(messages)
    said: list[str] | None = None  # in a tool call that no reply has ended yet: what the assistant said so far
    for i, row in enumerate(rows):
        who, at = _speaker(row, role, f"{field}[{i}]"), f"{field}[{i}].{content}"
        last = messages[-1]["role"] if messages else None
        if (who in ("calling", "call") and last == "user") or (who == "tool" and said is not None):
            said = said or []
            if who == "calling" and not empty(row.get(content)):
                said.append(to_text(row[content], at))
            places.append(len(messages))
            continue
        if said is not None and who == "user":
            _end(messages, from_tools, said, f"{field}[{i}].{role}")
            said, last = None, "assistant"
        again = who == "system" and i == 0 and given == 1
        if who not in NEXT[last] and not again:
            raise BadRow(f"{field}[{i}].{role}", " or ".join(NEXT[last]), found(row.get(role)))
        text = to_text(row.get(content), at)
        if again:
            if text != messages[0]["content"]:
                raise BadRow(at, "one system prompt", "another one beside the turns")
            places.append(0)
            continue
        if said is not None:
            from_tools.add(len(messages))
            text, said = "\n\n".join([*said, text]), None
        places.append(len(messages))
        messages.append({"role": str(who), "content": text})
    if said:
        _end(messages, from_tools, said, field)
    held = [at if at < len(messages) else None for at in places]
    return Turns(messages=messages, places=held, from_tools=frozenset(from_tools))


def _speaker(row: Any, role: str, field: str) -> str | None:
    """Who speaks in a row: one of the values of ROLES, "calling" for an assistant's message with tool calls, None if unknown."""
    if not isinstance(row, dict):
        raise BadRow(field, f"{{{role}, …}}", found(row))
    name = row.get(role)
    who = ROLES.get(name.lower()) if isinstance(name, str) else None
    calls = who == "assistant" and any(not empty(row[key]) for key in ("tool_calls", "function_call") if key in row)
    return "calling" if calls else who


def _end(messages: list[Message], from_tools: set[int], said: list[str], field: str) -> None:
    """Ends a tool call that no later reply ends with what was said beside it."""
    if not said:
        raise BadRow(field, "a reply after the tool call", "user", reason="tool call", remedy="add the reply, or leave the row out")
    from_tools.add(len(messages))
    messages.append({"role": "assistant", "content": "\n\n".join(said)})


def to_messages(rows: Any, *, role: str, content: str, field: str, system: Mapping[str, Any] | None = None) -> list[Message]:
    """As `to_turns`, of a prompt: without tool calls, whose results the reply would rest on."""
    turns = to_turns(rows, role=role, content=content, field=field, system=system)
    if turns.from_tools or None in turns.places:
        raise BadRow(field, "messages without tool calls", "tool calls", reason="tool call", remedy="leave the row out")
    return turns.messages


def beside(row: Mapping[str, Any]) -> list[Message]:
    """The system message of a row that has its system prompt beside the turns, or none."""
    given = {name: to_text(row[name], name) for name in SYSTEM if not empty(row.get(name))}
    if len(set(given.values())) > 1:
        raise BadRow(next(iter(given)), "one system prompt", f"different ones in {' and '.join(given)}")
    return [{"role": "system", "content": text} for text in list(given.values())[:1]]


def one_reply(value: Any, side: str, prompt: list[Message], *, role: str, content: str) -> str:
    """The text of a side of a pair: one reply by the assistant, alone or at the end of the prompt; raises BadRow."""
    value = decoded(value, role)
    messages = value if isinstance(value, list) else [value]
    expected = f"one reply: [{{{role!r}: 'assistant', {content!r}: text}}]"
    if not messages or not all(isinstance(message, dict) for message in messages):
        raise BadRow(side, expected, found(value))
    last = messages[-1]
    if ROLES.get(str(last.get(role, "assistant")).lower()) != "assistant":
        raise BadRow(f"{side}[{len(messages) - 1}].{role}", "assistant", found(last.get(role)))
    if len(messages) > 1:
        before = to_messages(messages[:-1], role=role, content=content, field=side)
        if before != prompt[len(prompt) - len(before) :]:
            raise BadRow(side, f"{expected}, after the messages of the prompt or without any", f"{len(messages)} messages")
    return to_text(last.get(content), f"{side}[{len(messages) - 1}].{content}")


def last_user(messages: list[Message], field: str) -> list[Message]:
    """The messages of a prompt, which a user message ends; raises BadRow."""
    if messages[-1]["role"] != "user":
        raise BadRow(field, "a last message by the user", messages[-1]["role"])
    return messages


def to_text(value: Any, field: str) -> str:
    """Text that is not empty; raises BadRow."""
    if isinstance(value, str) and isinstance(parts := decoded(value, "type"), list) and "text" in parts[0]:
        value = parts
    if isinstance(value, list):
        parts = [part.get("text") if isinstance(part, dict) and part.get("type", "text") == "text" else None for part in value]
        if not parts or not all(isinstance(part, str) for part in parts):
            raise BadRow(field, "text, or a list of text parts", found(value))
        value = "\n".join(parts)  # type: ignore[arg-type]
    if not isinstance(value, str) or not value.strip(INVISIBLE):
        raise BadRow(field, "text that is not empty", found(value))
    if printable(value) != value:
        raise BadRow(field, "text in valid Unicode", "half of a surrogate pair")
    return value.strip(INVISIBLE)


def found(value: Any) -> str:
    """A value as an error message shows it."""
    return "nothing" if value is None else f"{type(value).__name__} {printable(value)[:60]!r}"
