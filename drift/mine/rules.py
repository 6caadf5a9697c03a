"""Step 1 of the miner: transparent rules over a user's turn, with high precision and low recall.

A turn is a complaint (DSAT) if its first words contain a phrase of COMPLAINTS (the first matching category counts) or if it repeats
the request. It is praise (SAT) if it begins with a phrase of PRAISE that is not followed by "but". A turn of more than 200 words is
mostly pasted text, and counts as neither.
"""

import re
from collections import Counter
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

from drift.intake.conversations import Label, Opinion
from drift.mine.unread import count_unread
from drift.records import Message

VERSION = 2
FIRST, LONG = 25, 200  # words
MEASURED = {"dsat": ".79 [.55, .98]", "sat": "1.00 (no error in 56)"}  # precision, experiments/miner


def any_of(*patterns: str) -> re.Pattern[str]:
    """A pattern for lower-case text (`re.IGNORECASE` takes twice the time)."""
    return re.compile("|".join(patterns))


YOUR = (
    r"(that'?s|that is|this is|it'?s|it is|you'?re|you are|your \w+ (is|are|was)|(this|the) \w+ (is|are|was))"
    r"( still| all| just| way| a bit)*"
)
NOT_GOOD = (
    r"(not|isn'?t|wasn'?t) ((very|really|so|that|all that|too|particularly|even) )?"
    r"(good|great|helpful|useful)(?! (at|for|to)\b)"
)
PLEASE = r"^\W*(please |can you |could you |ok(ay)? |now |no,? |let'?s |try to )*"
COMPLAINTS = {
    "not_working": any_of(
        r"^(?!\W*how).*\b(does ?n[o']?t|did ?n[o']?t|still (does ?n[o']?t|is ?n[o']?t|not)) (seem to )?work\b",
        r"^(?!\W*how).*\b((still|it'?s|is) not working|still (get(ting)?|having|the same))\b",
        r"^(?!\W*how).*\bi(('m| am) getting| get| got) (an?|this|the following|the same) (\w+ )?(error|exception)",
        r"^(?!\W*how).*\b(gives?|gave|throws?|threw)( me| an?| this| the)* (\w+ )?error\b",
        r"^\W*(traceback|\w+error:)",
    ),
    "factual": any_of(
        rf"\b{YOUR} (wrong|incorrect|not (right|correct|true|accurate)|false|inaccurate)\b",
        r"\byou made (a|an|some) (mistake|error)|\byou (are|were) wrong\b",
        r"^\W*(wrong|incorrect|false|inaccurate|not (accurate|correct|true)|are you sure)\b",
    ),
    "ignored": any_of(
        r"\byou (forgot|missed|ignored|misunderst(oo|an)d|skipped|left out|omitted|only (gave|wrote|did|provided))\b",
        r"\byou (didn'?t|did not|haven'?t) (?!finish|make|address)\w+",
        r"\byou keep (repeat|giv|us|mak|writ|say|chang|add|ignor)\w*ing\b",
        r"\bnot what i (asked|wanted|meant|said|am asking)\b",
        r"^(?!.*\bsorry\b)\W*(no,? |but )?i (asked (you|for)|told you|said|meant)\b",
        r"^\W*no,? (that'?s not|this is not|it'?s not|not|you (are|should|need|misunder))\b|\byes,? you can\b",
    ),
    "detail": any_of(
        rf"\b{YOUR} (too|very|so) (vague|generic|general|broad)\b",
        r"^\W*(please )?(be|a (bit|little)) more (specific|detailed|precise)\b",
        PLEASE + r"((add|give|provide|with|in|i need) )?(me )?(some |a lot |much )?more details?,?( please)?\W*$",
    ),
    "style": any_of(
        rf"^(?!\W*(how|is there)\b)(?!.*:).*\b{YOUR} (too|so) "
        r"(long|short|formal|informal|complicated|complex|wordy|verbose|repetitive|robotic|technical)\b",
        r"(^\W*|\bbut )((that'?s|this is|it'?s|it is) )?((a bit|way|much|far|still) )*"
        r"too (long|short|complicated|wordy|verbose|technical)\b",
        PLEASE + r"make (it|this|that|them|the \w+)( \w+)? (shorter|longer|simpler|less|more|sound|funnier|clearer)\b(?!.*:)",
        PLEASE + r"((shorten|simplify|condense) (it|this|that|them)|be (more|less) \w+)\b(?!.*:)",
        PLEASE + r"(shorter|longer|simpler|less formal|more (?!please)\w+)\W*$",
    ),
    "revision": any_of(
        PLEASE + r"try( it| this| that)? again\b",
        PLEASE + r"(re-?write|rephrase|re-?do|re-?word|revise|regenerate)( it| this| that)?( again)?( please)?\W*$",
    ),
    "quality": any_of(
        rf"^\W*{YOUR} (bad|terrible|awful|boring|useless|nonsense|stupid|garbage|not good|not helpful)\b",
        rf"^\W*((that|this|it)('s| is| was)? )?{NOT_GOOD}\b",
        r"^\W*no good\b",
        r"^\W*(bad|terrible|awful|horrible|useless|unhelpful|irrelevant|nonsense|garbage)( (answer|reply|response))?\W*$",
    ),
    "negative": any_of(r"^\W*(wtf|what the (hell|fuck)|ugh|that'?s not it)\b", r"\bthank(s| you) for nothing\b", r"^\W*👎"),
}
# Every match contains one of these; searching for them first takes a tenth of the time.
TRACES = {
    "not_working": ("work", "still", "error", "exception", "traceback"),
    "factual": ("wrong", "incorrect", "not ", "false", "inaccurate", "mistake", "error", "are you sure"),
    "ignored": ("you", "not", "asked", "told", "said", "meant"),
    "detail": ("vague", "generic", "general", "broad", "more"),
    "style": ("too ", "so ", "make ", "shorte", "simpl", "condense", "be ", "longer", "less", "more "),
    "revision": ("try", "write", "phrase", "redo", "re-do", "word", "revise", "regenerate"),
    "quality": (
        "bad",
        "terrible",
        "awful",
        "boring",
        "useless",
        "nonsense",
        "stupid",
        "garbage",
        "good",
        "great",
        "helpful",
        "useful",
        "horrible",
        "irrelevant",
    ),
    "negative": ("wtf", "what the", "ugh", "not it", "for nothing", "👎"),
}
CONTINUES = any_of("continue", "go on", "next")
PRAISE = any_of(
    r"^\W*(ok(ay)?[,.!]? |yes[,.!]? |wow[,.!]? |oh[,.!]? |hey[,.!]? )?("
    r"thanks|thank you|thx|ty\b|perfect|excellent|awesome|amazing|brilliant|fantastic|wonderful|well done"
    r"|(great|good|nice|excellent) (job|work|answer|start|one)"
    r"|(that|this|it)('s| is| was) (really |very |so )?(great|perfect|awesome|helpful|excellent|exactly|good|amazing)"
    r"|(it|that|this) work(s|ed)|i (really )?(like|love) (it|this|that|the|number)|you('re| are) (amazing|great|the best))\b"
    r"|^\W*(great|cool|love it|((very|really|so) )?(nice|good|helpful))\W*($|[.,!])|^\W*👍"
)
BUT = any_of(r"\W*but\b")
WORD = re.compile(r"\w+")


@dataclass(frozen=True, kw_only=True)
class Rules:
    """The miner that uses the rules alone. `counts`: what a report should mention."""

    counts: Counter[str] = field(default_factory=Counter, init=False, compare=False)

    def check(self) -> None:
        pass

    def check_packages(self) -> None:
        pass

    def key(self) -> dict[str, Any]:
        return {"miner": "rules", "version": VERSION}

    def classify(self, conversations: list[list[Message]]) -> list[dict[int, Opinion]]:
        """For each conversation, an opinion of every reply that a user turn follows, by the reply's index."""
        count_unread([[turn(messages, i)[2] for i in replies(messages)] for messages in conversations], self.counts)
        return [{i: opinion(*turn(messages, i)) for i in replies(messages)} for messages in conversations]


def replies(messages: list[Message]) -> range:
    """Indices of the replies that a user turn follows."""
    first = 2 if messages[0]["role"] == "system" else 1
    return range(first, len(messages) - 1, 2)


def turn(messages: list[Message], i: int) -> tuple[str, str, str]:
    """(request, reply, next turn) of the reply with index i."""
    return messages[i - 1]["content"], messages[i]["content"], messages[i + 1]["content"]


def opinion(request: str, reply: str, said: str) -> Opinion:
    """What the user's next turn, `said`, says about the reply."""
    words = said.split()
    if len(words) <= LONG:
        first_words = plain(" ".join(words[:FIRST]))
        start = first_words.lower()
        praise = PRAISE.search(start)
        category, hit = complaint(start)
        evidence = words_of(hit or praise, first_words)
        if category is None and len(words) > 5 and not CONTINUES.search(start) and same_words(request, said):
            category, evidence = "revision", "the request sent again"
        label: Label = ("both" if praise else "dsat") if category else ("sat" if praise and not taken_back(said) else "none")
        if label != "none":
            return Opinion(label=label, category=category, confidence=0.8, detector="rules", evidence=evidence)
    return Opinion(label="none", category=None, confidence=0.8, detector="rules", evidence=None)


def taken_back(said: str) -> bool:
    """Whether a turn begins with praise that is followed by "but"."""
    start = plain(" ".join(said.split()[:FIRST])).lower()
    praise = PRAISE.search(start)
    return praise is not None and BUT.match(start, praise.end()) is not None


def complaint(start: str) -> tuple[str | None, re.Match[str] | None]:
    """(category, match) of the first complaint in the first words, which are in lower case."""
    for category, pattern in COMPLAINTS.items():
        if any(trace in start for trace in TRACES[category]) and (hit := pattern.search(start)):
            return category, hit
    return None, None


def words_of(hit: re.Match[str] | None, text: str) -> str | None:
    """The words of a match, as the user wrote them (lower-casing changes the length of a few characters: then as matched)."""
    if hit is None:
        return None
    return (text[hit.start() : hit.end()] if len(text) == len(hit.string) else hit.group()).strip()


def same_words(one: str, other: str) -> bool:
    """Whether two texts have the same words, apart from case, spaces and punctuation; stops at the first difference."""
    pairs = zip_longest(*(map(re.Match.group, WORD.finditer(text.lower())) for text in (one, other)))
    return all(a == b for a, b in pairs)


def plain(text: str) -> str:
    """The text with straight apostrophes."""
    return text.replace("’", "'").replace("‘", "'")
