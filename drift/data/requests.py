"""The simulated users: their topics, how they ask, what they ask for, how they check a reply, and what they say next.

Every request can be checked by a few lines of code, so the truth about a reply is known. The small start model meets each of the
six requests sometimes (in .44 to .75 of 16 replies), so they can be learnt and are not solved from the start. The checks look at
form only: words, characters, lines and whether the topic is named; not whether a reply is true or well written.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

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
    """`asks`: phrasings of the request. `complaints`: what a user says if it was not met. `met`: the check."""

    asks: tuple[str, ...]
    complaints: tuple[str, ...]
    met: Callable[[str], bool]


WORD = re.compile(r"\d+(?:[.,:]\d+)+|(?:[^\W\d_]\.){2,}|[^\W_]+(?:['’‘-][^\W_]+)*")
NUMBER = re.compile(r"(^|\n|[.!?;:]\s)(\s*\(?[*_]*)(\d{1,2})[.)][*_]*(?=\s|$)")  # the number of a list item, on its own line or not
END = re.compile(r"([.!?…]+)([\"'”’»)\]*_`]*)(?=\s|$)|(?<=[a-z]{2})[.!?]+(?=[A-Z][a-z])")
NEVER_LAST = "dr mr mrs ms prof st mt vs approx e.g i.e".split()  # abbreviations that never end a sentence
SOMETIMES_LAST = "etc jr sr inc ltd co".split()  # like everything with a full stop inside: p.m., U.S.
INITIAL = re.compile(r"(?<![^\W_])(?<!vitamin )(?<!type )(?<!grade )(?<!letter )(?!I$)[A-Z]$")
SELF = re.compile(
    r"(?<![^\W_])(?:i|me|my|myself|(?:helpful|virtual|personal|ai) assistant|an ai|language model)(?![^\W_])"
    r"|(?:^|[^\w\s-]\s*|\b(?:of|is|was|are|were|like|than|as|with|for|not|and) )mine(?![^\W_])",
    re.IGNORECASE | re.MULTILINE,
)
# i.e., the first letter of a list, World War I, Elizabeth I of England, "You are a helpful assistant"
NOT_SELF = re.compile(
    r"\bi\.\s?e\b|^\s*\(?i[.)]\s|\b(?:war|part|type) i(?![^\W_]|['’])|(?<=\w )i(?= of )|\byou(?:['’]re| are) an? \w+ assistant\b",
    re.IGNORECASE | re.MULTILINE,
)


def words(text: str) -> list[str]:
    """The words as a person counts them: "don't", "3.5", "ice-cream" and "e.g." are one word each; dashes, symbols and list numbers
    are not words."""
    return WORD.findall(NUMBER.sub(r"\1", text))


def sentences(text: str) -> int:
    """The number of sentences in a text. One ends at . ! ? … before white space or the end of the text, but not at an abbreviation,
    an initial, a list number, or a quotation inside a sentence that continues."""
    plain = NUMBER.sub(r"\1", text)
    return sum(_ends(hit, plain[: hit.start()], plain[hit.end() :].lstrip()) for hit in END.finditer(plain))


def _ends(hit: re.Match[str], before: str, after: str) -> bool:
    if not WORD.search(after):
        return True
    stops, closed = hit.groups()
    continues = after[0].islower() and not re.match(r"i\b", after)
    if closed or stops in ("...", "…"):  # a quotation, an aside or a pause
        return not continues
    word = re.split(r"[\s(\"'“‘*_]", before)[-1].lower()
    if stops != ".":
        return True
    if word in NEVER_LAST or INITIAL.search(before) or word == "no" and after[0].isdigit():
        return False
    return not (continues and (word in SOMETIMES_LAST or "." in word))


def _one_sentence(reply: str) -> bool:
    return sentences(reply) == 1 and bool(re.search(r"[.!?…]\W*$", reply)) and "\n" not in reply


def _numbered(reply: str) -> bool:
    """Whether there is a point 1 and after it a point 2, each with some text."""
    points = [int(hit[3]) for hit in NUMBER.finditer(reply) if reply[hit.end() :].strip()]
    return 1 in points and 2 in points[points.index(1) :]


def _impersonal(reply: str) -> bool:
    return not SELF.search(NOT_SELF.sub(" ", reply))


REQUESTS = {
    "one_sentence": Request(
        asks=("Answer in exactly one sentence.", "Use a single sentence, please."),
        complaints=("No, I asked for one sentence.", "That is not a single sentence. Try again."),
        met=_one_sentence,
    ),
    "no_commas": Request(
        asks=("Do not use any commas.", "Write it without commas."),
        complaints=("I said no commas.", "There are commas in your answer. Please write it without them."),
        met=lambda reply: not re.search("[,،、，﹐､]", reply),
    ),
    "at_most_20_words": Request(
        asks=("Use at most 20 words.", "Keep it to 20 words or fewer, please."),
        complaints=("That's more than 20 words.", "Much too long. I said 20 words."),
        met=lambda reply: len(words(reply)) <= 20,
    ),
    "numbered_list": Request(
        asks=("Answer as a numbered list.", "Give me a numbered list."),
        complaints=("I wanted a numbered list.", "That's not a numbered list. Number the points."),
        met=_numbered,
    ),
    "impersonal": Request(
        asks=("Do not talk about yourself.", "Do not mention yourself."),
        complaints=("I did not ask about you.", "You talk about yourself. Leave yourself out of it."),
        met=_impersonal,
    ),
    "at_most_30_words": Request(
        asks=("Use at most 30 words.", "Keep it to 30 words or fewer, please."),
        complaints=("That's more than 30 words.", "Too long. I asked for 30 words at most."),
        met=lambda reply: len(words(reply)) <= 30,
    ),
}


@dataclass(frozen=True, kw_only=True)
class Check:
    """The result of checking a reply. `useful`, the utility: all three hold."""

    met: bool
    on_topic: bool
    sound: bool

    @property
    def useful(self) -> bool:
        return self.met and self.on_topic and self.sound


def verify(truth: dict[str, str], reply: str) -> Check:
    """Checks a reply: is the request met, the topic named, and are there at least 4 words with a type/token ratio of at least
    1/2?"""
    tokens = [word.lower() for word in words(reply)]
    sound = len(tokens) >= 4 and len(set(tokens)) / len(tokens) >= 0.5
    return Check(
        met=REQUESTS[truth["request"]].met(reply.strip()),
        on_topic=not topic_names(truth["topic"]).isdisjoint(re.findall(r"[a-z]+", reply.lower())),
        sound=sound,
    )


# Irregular singulars, and other words of the same stem that name the topic too
SINGULARS = {
    "leaves": "leaf", "knives": "knife", "wolves": "wolf", "butterflies": "butterfly", "libraries": "library",
    "potatoes": "potato", "tomatoes": "tomato", "beaches": "beach", "buses": "bus", "tennis": "tennis",
}  # fmt: skip
ALSO = {
    "rain": "rainy raining rained rainfall raindrop raindrops", "snow": "snowy snowing snowfall snowstorm snowflake snowflakes",
    "wind": "windy", "storms": "stormy", "clouds": "cloudy", "swimming": "swim swims swam swimmer swimmers",
    "sleep": "sleeping sleeps slept asleep sleepy", "dreams": "dreaming dreamed", "gardens": "gardening gardener gardeners",
    "fish": "fishes fishing", "photos": "photograph photographs photography", "roofs": "roofing", "salt": "salty salted",
    "stairs": "staircase staircases stairway", "farms": "farming farmer farmers", "drums": "drumming drummer drummers",
    "boats": "boating", "planets": "planetary", "bicycles": "bike bikes", "airplanes": "plane planes aeroplanes",
    "markets": "marketplace marketplaces", "theaters": "theatre theatres", "cheese": "cheesy", "grass": "grassy grasses",
    "sugar": "sugary", "butter": "buttery",
}  # fmt: skip


@cache
def topic_names(topic: str) -> frozenset[str]:
    """The words that name a topic; whole words, so that "can" does not name caves."""
    is_plural = topic.endswith("s") and not topic.endswith("ss")
    singular = SINGULARS.get(topic) or (topic[:-1] if is_plural else topic)
    return frozenset([topic, singular, singular if is_plural or topic[-1] in "sh" else f"{topic}s", *ALSO.get(topic, "").split()])


def next_turn(truth: dict[str, str], check: Check, pick: Callable[[tuple[str, ...]], str]) -> str:
    """The simulated user's next turn: thanks, or a complaint about the first thing that is wrong."""
    if check.useful:
        return pick(THANKS)
    if not check.met:
        return pick(REQUESTS[truth["request"]].complaints)
    if not check.on_topic:
        return pick((f"That is not about {truth['topic']}.", f"You did not even mention {truth['topic']}."))
    return pick(("That answer is no use to me.", "That makes no sense. Try again."))
