"""What simulated users ask for and how they check a reply: their topics, their wording, their requests.

Every request can be checked by a few lines of code, so the truth about a reply is known. The checks look at form only: words,
characters, lines, whether the topic is named and the reply came to an end; not at whether it is true or well written. The small
start model meets each request of a set sometimes, so they can be learnt and are not solved from the start; how often, and how far
length gives a useful reply away, is measured in experiments/regimes.
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
BULLET = re.compile(r"(?m)^\s*[-*•]\s+\S")


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


def _a_list(reply: str) -> bool:
    """Whether there are bullets, or a point 1 and after it a point 2, each with some text."""
    points = [int(hit[3]) for hit in NUMBER.finditer(reply) if reply[hit.end() :].strip()]
    return bool(BULLET.search(reply)) or 1 in points and 2 in points[points.index(1) :]


def _longest(reply: str) -> int:
    """Letters of the longest word; the parts of "well-made" count on their own."""
    return max(map(len, re.findall(r"[^\W\d_]+", reply)), default=0)


REQUESTS = {
    "one_sentence": Request(
        asks=("Answer in exactly one sentence.", "Use a single sentence, please."),
        complaints=("No, I asked for one sentence.", "That is not a single sentence. Try again."),
        met=_one_sentence,
    ),
    "one_sentence_of_15_words": Request(
        asks=("Answer in one sentence of at least 15 words.", "Use a single sentence with 15 words or more, please."),
        complaints=(
            "I wanted one sentence of 15 words or more.",
            "That is not what I asked for: a single sentence, at least 15 words.",
        ),
        met=lambda reply: _one_sentence(reply) and len(words(reply)) >= 15,
    ),
    "at_most_two_sentences": Request(
        asks=("Use at most two sentences.", "Keep it to two sentences or fewer, please."),
        complaints=("That's more than two sentences.", "Too long. I asked for two sentences at most."),
        met=lambda reply: sentences(reply) <= 2,
    ),
    "at_most_20_words": Request(
        asks=("Use at most 20 words.", "Keep it to 20 words or fewer, please."),
        complaints=("That's more than 20 words.", "Much too long. I said 20 words."),
        met=lambda reply: len(words(reply)) <= 20,
    ),
    "at_most_30_words": Request(
        asks=("Use at most 30 words.", "Keep it to 30 words or fewer, please."),
        complaints=("That's more than 30 words.", "Too long. I asked for 30 words at most."),
        met=lambda reply: len(words(reply)) <= 30,
    ),
    "at_most_40_words": Request(
        asks=("Use at most 40 words.", "Keep it to 40 words or fewer, please."),
        complaints=("That's more than 40 words.", "Too long. I asked for 40 words at most."),
        met=lambda reply: len(words(reply)) <= 40,
    ),
    "at_least_10_words": Request(
        asks=("Use at least 10 words.", "Use 10 words or more, please."),
        complaints=("That's fewer than 10 words.", "Too short. I asked for 10 words or more."),
        met=lambda reply: len(words(reply)) >= 10,
    ),
    "at_least_two_sentences": Request(
        asks=("Answer with a couple of sentences, please.", "Give me a couple of sentences, please."),
        complaints=("I wanted more than one sentence.", "Too short. I asked for a couple of sentences."),
        met=lambda reply: sentences(reply) >= 2,
    ),
    "a_long_word": Request(
        asks=("Use at least one word of 9 letters or more.", "Use a word with 9 or more letters, please."),
        complaints=("I wanted a word of at least 9 letters.", "None of your words has 9 letters or more."),
        met=lambda reply: _longest(reply) >= 9,
    ),
    "no_long_words": Request(
        asks=("Do not use words of more than 11 letters.", "Use only words of at most 11 letters, please."),
        complaints=("Your words are too long. I said 11 letters at most.", "I asked for words of at most 11 letters."),
        met=lambda reply: _longest(reply) <= 11,
    ),
    "no_list": Request(
        asks=("Do not answer with a list.", "No list, please."),
        complaints=("I said no list.", "I did not want a list. Please write sentences."),
        met=lambda reply: not _a_list(reply),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Set:
    """`frames`: how users ask about a topic. `requests`: what they ask for besides."""

    frames: tuple[str, ...]
    requests: tuple[str, ...]


SETS = {
    # Some requests pull short, some long, some neither.
    "mixed": Set(
        frames=(
            "Give me one useful fact about {topic}.",
            "Tell me one interesting thing about {topic}.",
            "Name one reason why people like {topic}.",
            "What is one good thing about {topic}?",
            "What is special about {topic}?",
            "What is the best thing about {topic}?",
        ),
        requests=(
            "at_most_20_words", "at_most_30_words", "one_sentence_of_15_words", "at_least_10_words", "at_least_two_sentences",
            "a_long_word",
        ),
    ),
    # All want short replies.
    "brief": Set(
        frames=(
            "Tell me something about {topic}.",
            "What should I know about {topic}?",
            "Give me one useful fact about {topic}.",
            "Why do people like {topic}?",
            "Describe {topic} to a child.",
            "What comes to your mind when you think of {topic}?",
        ),
        requests=("at_most_30_words", "at_most_40_words", "one_sentence", "at_most_two_sentences", "no_list", "no_long_words"),
    ),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Check:
    """The result of checking a reply. `useful`, the utility: all four hold."""

    met: bool
    on_topic: bool
    sound: bool
    ended: bool

    @property
    def useful(self) -> bool:
        return self.met and self.on_topic and self.sound and self.ended


def verify(truth: dict[str, str], reply: str, *, ended: bool) -> Check:
    """Checks a reply: is the request met, the topic named, did it come to an end, and are there at least 4 words with a type/token
    ratio of at least 1/2?"""
    tokens = [word.lower() for word in words(reply)]
    sound = len(tokens) >= 4 and len(set(tokens)) / len(tokens) >= 0.5
    return Check(
        met=REQUESTS[truth["request"]].met(reply.strip()),
        on_topic=not topic_names(truth["topic"]).isdisjoint(re.findall(r"[a-z]+", reply.lower())),
        sound=sound,
        ended=ended,
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
