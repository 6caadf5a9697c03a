"""The classifier's features of a user turn: its words, its beginning and end, and its relation to the request and the reply.

Sequences of one to three words are hashed (no vocabulary is shipped). The beginning is hashed separately, because "no" means
something else there than later on. `FACTS` lists the other features.
"""

import re
from typing import Any

from drift.mine import rules

VERSION = 1
HASHES = 2**18
FIRST, LAST, START = 50, 12, 6  # words used: the first, the last (of longer turns), and those hashed again as the beginning
WORD, LETTER = re.compile(r"\w+|[?!]"), re.compile(r"\w")
ERROR = rules.any_of("error|exception|traceback|failed|undefined|not found|warning")
REFUSES = rules.any_of(r"as an ai|i'm sorry|i apologi[sz]e|unable to|i cannot|i can't|don't have (access|the ability)")
SORRY = rules.any_of(r"^\W*(i apologi[sz]e|sorry|my apologies|you are (right|correct)|you're (right|correct))")

Turn = tuple[str, str, str]  # request, reply, the user's next turn
FACTS = {
    "length": lambda t: min(len(t.said), 4000) / 2000,
    "one to three words": lambda t: len(t.words) < 4,
    "up to seven words": lambda t: len(t.words) < 8,
    "words shared with the request": lambda t: t.shared,
    "nearly the request again": lambda t: len(t.words) > 3 and t.shared > 0.8,
    "begins like the request": lambda t: len(t.said) > 20 and t.said[:40].lower() == t.request[:40].lower(),
    "words that are in the reply": lambda t: t.answered,
    "speaks of an error": lambda t: t.error,
    "an error after code": lambda t: t.error and "```" in t.reply,
    "code in the reply": lambda t: "```" in t.reply,
    "the reply refuses": lambda t: bool(REFUSES.search(t.reply[:250].lower())),
    "the reply is sorry": lambda t: bool(SORRY.search(t.reply[:60].lower())),
    "the reply asks": lambda t: t.reply.endswith("?"),
    "the reply breaks off": lambda t: t.reply[-1:] not in ".!?`)\"':”",
    "a short reply": lambda t: len(t.reply) < 300,
    "ends with a question mark": lambda t: t.said.endswith("?"),
    "an exclamation mark": lambda t: "!" in t.said,
    "more than a line": lambda t: "\n" in t.said,
    "begins in lower case": lambda t: t.said[:1].islower(),
    "all upper case": lambda t: t.said.isupper(),
    **{f"rule: {name}": lambda t, name=name: t.complaint == name for name in rules.COMPLAINTS},
    "rule: praise": lambda t: t.praised,
}


class Reading:
    """A turn, split into what the facts are computed from."""

    def __init__(self, turn: Turn) -> None:
        self.request, self.reply, self.said = (text.strip() for text in turn)
        self.words = WORD.findall(rules.plain(self.said[:4000]).lower())
        words, request, reply = set(self.words), set(WORD.findall(self.request[:2000].lower())), self.reply[:2000].lower()
        self.shared = len(words & request) / max(1, len(words | request))
        self.answered = sum(contains_word(reply, word) for word in words) / max(1, len(words))
        self.error = bool(ERROR.search(self.said.lower()))
        self.by_rule = rules.opinion(*turn)
        self.complaint = self.by_rule.category
        self.praised = self.by_rule.label in ("sat", "both")


def contains_word(text: str, word: str) -> bool:
    """Whether the word is one of `WORD.findall(text)`, without splitting the text."""
    at = text.find(word)
    while at >= 0:
        neighbours = text[at - 1 : at] + text[at + len(word) : at + len(word) + 1]
        if word in "?!" or not LETTER.search(neighbours):
            return True
        at = text.find(word, at + 1)
    return False


def matrix(readings: list[Reading]) -> Any:
    """The sparse feature matrix `(N, HASHES + len(FACTS))`."""
    from scipy.sparse import csr_matrix, hstack

    facts = csr_matrix([[float(fact(reading)) for fact in FACTS.values()] for reading in readings])
    return hstack([vectorizer(analyzer=grams, norm="l2").transform([reading.words for reading in readings]), facts]).tocsr()


def columns(grams: list[str]) -> list[int]:
    """The matrix column of each of these grams."""
    hashed = vectorizer(analyzer=lambda gram: [gram], norm=None).transform(grams)
    return [int(column) for column in hashed.indices]


def vectorizer(**settings: Any) -> Any:
    """The hashing of words to columns that the fitted weights expect."""
    from sklearn.feature_extraction.text import HashingVectorizer

    return HashingVectorizer(n_features=HASHES, alternate_sign=False, binary=True, **settings)


def grams(words: list[str]) -> list[str]:
    """Sequences of one to three of the words used, and those of the beginning again, marked with ^."""
    parts = [words[:FIRST], words[max(FIRST, len(words) - LAST) :]]
    sequences = [" ".join(part[i : i + n]) for part in parts for n in (1, 2, 3) for i in range(len(part) - n + 1)]
    return sequences + ["^" + " ".join(words[:n]) for n in (1, 2, 3)] + [f"^{word}" for word in words[:START]]
