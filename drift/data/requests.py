"""The simulated users' world: topics, how they ask, what they ask for, how a reply is checked, what they say afterwards.

Every request can be checked by a few lines of code, so the truth about a reply is known. The six requests are
those that the small start model meets sometimes (.44 to .75 of 16 replies to each): learnable, and not solved at the start.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

TOPICS = (
    "tea coffee bread cheese honey rice soup pasta pizza salad chocolate apples bananas lemons carrots potatoes tomatoes "
    "onions mushrooms pepper salt sugar butter eggs breakfast dinner picnics kitchens knives spoons plates candles lamps "
    "windows doors stairs roofs gardens trees flowers roses grass leaves seeds forests mountains rivers lakes oceans beaches "
    "islands deserts caves clouds rain snow wind storms rainbows sunshine winter autumn summer mornings nights stars moon "
    "planets cats dogs horses cows sheep goats chickens ducks owls penguins eagles fish sharks whales turtles frogs snakes "
    "spiders bees butterflies ants elephants lions tigers bears wolves rabbits bicycles cars trains buses boats airplanes "
    "bridges roads tunnels maps clocks calendars books letters newspapers pencils paintings photos movies theaters music "
    "guitars pianos drums violins songs dancers football tennis chess puzzles toys kites swimming sleep dreams holidays "
    "birthdays gifts hats shoes coats umbrellas mirrors blankets pillows soap towels schools teachers libraries museums "
    "hospitals markets farms castles parks"
).split()

FRAMES = (
    "Tell me something about {topic}.",
    "What should I know about {topic}?",
    "Give me one useful fact about {topic}.",
    "Why do people like {topic}?",
    "Describe {topic} to a child.",
    "What comes to your mind when you think of {topic}?",
)

THANKS = (
    "Thanks, that's just what I wanted.",
    "Perfect, thank you!",
    "Great, exactly what I asked for.",
    "Nice, thanks.",
)


@dataclass(frozen=True, kw_only=True)
class Request:
    """`asks`: ways to put it. `complaints`: what a user says when it was not met. `met`: the check."""

    asks: tuple[str, ...]
    complaints: tuple[str, ...]
    met: Callable[[str], bool]


def words(text: str) -> list[str]:
    return re.findall(r"[A-Za-z0-9'’-]+", text)


def sentences(text: str) -> int:
    """Sentence ends: runs of . ! ? followed by white space or the end of the text."""
    return len(re.findall(r"[.!?]+[\"')\]]*(?=\s|$)", text))


def _one_sentence(reply: str) -> bool:
    return sentences(reply) == 1 and bool(re.search(r"[.!?][\"')\]]*$", reply)) and "\n" not in reply


def _numbered(reply: str) -> bool:
    return all(re.search(rf"^\s*{n}[.)]\s+\S", reply, re.MULTILINE) for n in (1, 2))


REQUESTS = {
    "one_sentence": Request(
        asks=("Answer in exactly one sentence.", "Use a single sentence, please."),
        complaints=("No, I asked for one sentence.", "That is not a single sentence. Try again."),
        met=_one_sentence,
    ),
    "no_commas": Request(
        asks=("Do not use any commas.", "Write it without commas."),
        complaints=("I said no commas.", "There are commas in your answer. Please write it without them."),
        met=lambda reply: "," not in reply,
    ),
    "at_most_20_words": Request(
        asks=("Use at most 20 words.", "Keep it under 20 words, please."),
        complaints=("That's more than 20 words.", "Much too long. I said 20 words."),
        met=lambda reply: len(words(reply)) <= 20,
    ),
    "numbered_list": Request(
        asks=("Answer as a numbered list.", "Give me a numbered list."),
        complaints=("I wanted a numbered list.", "That's not a numbered list. Number the points."),
        met=_numbered,
    ),
    "impersonal": Request(
        asks=("Do not talk about yourself.", 'Leave the word "I" out of it.'),
        complaints=("I did not ask about you.", 'You talk about yourself. Leave "I" and "my" out.'),
        met=lambda reply: not re.search(r"\b(I|me|my|mine|myself)\b", reply),
    ),
    "at_most_30_words": Request(
        asks=("Use at most 30 words.", "Keep it under 30 words, please."),
        complaints=("That's more than 30 words.", "Too long. I asked for 30 words at most."),
        met=lambda reply: len(words(reply)) <= 30,
    ),
}


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What is true of a reply. `useful`, the utility, is all three at once."""

    met: bool
    on_topic: bool
    sound: bool

    @property
    def useful(self) -> bool:
        return self.met and self.on_topic and self.sound


def verify(truth: dict[str, str], reply: str) -> Verdict:
    """Checks a reply: request met; topic named; at least 4 words with a type/token ratio of at least one half."""
    found = [word.lower() for word in words(reply)]
    sound = len(found) >= 4 and len(set(found)) / len(found) >= 0.5
    stem = topic_stem(truth["topic"])
    return Verdict(
        met=REQUESTS[truth["request"]].met(reply.strip()),
        on_topic=any(word.startswith(stem) for word in found),
        sound=sound,
    )


def topic_stem(topic: str) -> str:
    """What a word must start with to name the topic: the singular, without the endings that change."""
    for ending, stem in (
        ("ives", "i"),
        ("ves", ""),
        ("ies", ""),
        ("oes", "o"),
        ("ches", "ch"),
        ("ses", "s"),
        ("ing", ""),
    ):
        if topic.endswith(ending):
            return topic[: -len(ending)] + stem
    return topic[:-1] if topic.endswith("s") and not topic.endswith("ss") else topic


def feedback(truth: dict[str, str], verdict: Verdict, pick: Callable[[tuple[str, ...]], str]) -> str:
    """The simulated user's next turn: thanks, or a complaint about what is wrong first."""
    if verdict.useful:
        return pick(THANKS)
    if not verdict.met:
        return pick(REQUESTS[truth["request"]].complaints)
    if not verdict.on_topic:
        return pick((f"That is not about {truth['topic']}.", f"You did not even mention {truth['topic']}."))
    return pick(("That answer is no use to me.", "That makes no sense. Try again."))
