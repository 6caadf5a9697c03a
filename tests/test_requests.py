"""The simulated users' checks against replies that are made to pass or to fail, by what a request means."""

import random

import pytest

from drift.data.requests import REQUESTS, TOPICS, topic_names, verify, words

COUNT = 400  # replies a claim
POOL = (
    "warm leaves don't 3.5 ice-cream e.g. café 1,000 rivers old U.S. stones quietly moving 20 clouds ’tis bright well-made".split()
)
ONE = (
    "Old stones keep the heat of the day",
    "Dr. Smith and Mrs. Jones like it warm",
    "It costs 3.5 dollars, i.e. not much",
    "Some kinds, e.g. the green ones, need water",
    "Most people wake at 6 a.m. in summer",
    "The U.S. market is large",
    "Shops sell bread, milk, etc. at noon",
    "The sign says “Keep out!” in red",
    'The word "why?" comes up a lot',
    "They know it (who does not?) by heart",
    "John F. Kennedy and Mt. Everest are well known",
    "House No. 5 vs. house No. 6 is a long story",
    "It is... a surprise",
    "Vitamin C is good for you",
    "See example.com for more",
)
ENDS = (".", "!", "?", "…", ".”", '."', ".)", ".**")
PLAIN = (
    "The mystery of Miami is some time in the army.", "People often mine salt; a mine is dark.", "World War I ended long ago.",
    "Sweet things, i.e. cakes, are liked.", "Elizabeth I of England liked it.", "Island winds are mild.",
    "An old gold mine is here.", "You are what you eat, and they are what they drink.",
)  # fmt: skip
OWN = ("I", "i", "I'm", "I’ve", "i'll", "me", "Me", "ME", "my", "My", "MY", "myself", "Myself", "mine", "Mine")


def met(request, reply):
    return verify({"topic": "tea", "request": request}, reply).met


def joined(rng, chosen):
    """Words with signs between them that are none."""
    return "".join(word + rng.choice([" ", " ", ", ", "; ", " – ", " - ", " & ", " ... ", "\n"]) for word in chosen)


@pytest.mark.parametrize("most", [20, 30])
def test_a_limit_counts_words_as_a_person_does(most):
    rng = random.Random(most)
    for _ in range(COUNT):
        chosen = rng.choices(POOL, k=rng.choice([1, most - 1, most, most + 1, most + 2, 2 * most]))
        reply = joined(rng, chosen)
        if rng.random() < 0.3:
            reply = "".join(f"{i}. {line}\n" for i, line in enumerate(reply.split("\n"), 1))
        assert met(f"at_most_{most}_words", reply) == (len(chosen) <= most), (len(chosen), reply)
    for ask in REQUESTS[f"at_most_{most}_words"].asks:
        assert "under" not in ask and f"{most} words" in ask  # just so many are allowed


def test_a_comma_is_one_wherever_it_stands():
    rng = random.Random(1)
    for _ in range(COUNT):
        plain = joined(rng, rng.choices(POOL, k=12)).replace(",", "")
        assert met("no_commas", plain)
        at = rng.randrange(len(plain))
        assert not met("no_commas", plain[:at] + rng.choice(",,,，、") + plain[at:])


def test_one_sentence_is_one_whatever_stands_in_it():
    rng = random.Random(2)
    for _ in range(COUNT):
        first, second = (text + rng.choice(ENDS) for text in rng.sample(ONE, 2))
        assert met("one_sentence", first), first
        assert met("one_sentence", f"“{first}”") and met("one_sentence", f"1. {first}"), first
        for several in (f"{first} {second}", f"{first}\n{second}", f"{first}\n\n- {second}", f"{first} {second} {first}"):
            assert not met("one_sentence", several), several
        assert not met("one_sentence", first.rstrip('.!?…”")*')), first
    assert not met("one_sentence", "Tea is hot.Coffee is cold.") and not met("one_sentence", "")


def test_a_numbered_list_has_a_first_and_a_second_point():
    rng = random.Random(3)
    for _ in range(COUNT):
        points = [rng.choice(ONE[:7]) for _ in range(rng.randint(2, 5))]
        mark = rng.choice(["{}.", "{})", "({})", "**{}.**"])
        lines = [f"{mark.format(i)} {point}" for i, point in enumerate(points, 1)]
        start, between = rng.choice(["", "Here is a list:\n", "A: ", "Sure.\n\n"]), rng.choice(["\n", "\n\n", "\n  "])
        assert met("numbered_list", start + between.join(lines)), lines
        assert met("numbered_list", ". ".join(f"{i}. {point}" for i, point in enumerate(points, 1)))
        bullets = "\n".join(f"{rng.choice('-*•')} {point}" for point in points)
        for other in (start + lines[0], "\n".join(points), bullets, "\n".join(lines[1:]), f"{lines[0]}\n2.", " and ".join(points)):
            assert not met("numbered_list", other), other
    assert not met("numbered_list", "It takes 1 cup of tea and 2 of milk.")


def test_speaking_of_oneself_is_found_in_any_case_and_place():
    rng = random.Random(4)
    for _ in range(COUNT):
        plain = " ".join(rng.sample(PLAIN, rng.randint(1, 3)))
        assert met("impersonal", plain), plain
        said = plain.split(" ")
        place = rng.choice([i for i, word in enumerate(said) if word[-1] in ".;,"]) + 1  # at the end of a clause
        said.insert(place, rng.choice(OWN) + rng.choice(["", ",", ".", "!"]) if place else "")
        assert not met("impersonal", " ".join(said)), said
    for reply in (
        "A helpful assistant with a plan.",
        "As an AI, no opinion is held.",
        "Tea (my favourite) is hot.",
        '"I" is a word.',
    ):
        assert not met("impersonal", reply)
    assert met("impersonal", "You're a helpful assistant.")


@pytest.mark.parametrize(("topic", "one", "other"), [
    ("caves", "cave", "You can do that whenever you want to."), ("leaves", "leaf", "You should learn at least one."),
    ("shoes", "shoe", "You should show it."), ("bees", "bee", "It has been a very long day."), ("movies", "movie", "They move on."),
    ("buses", "bus", "Business is busy."), ("cars", "car", "Take care of carbon."), ("cats", "cat", "Catch this category."),
    ("tea", "tea", "The teacher of the team."), ("stars", "star", "Start to stare."), ("trains", "train", "Training is hard."),
    ("hats", "hat", "Some hate it."), ("bears", "bear", "A beard."), ("parks", "park", "Parking is dear."),
])  # fmt: skip
def test_a_topic_is_named_by_its_own_words_only(topic, one, other):
    def named(reply):
        return verify({"topic": topic, "request": "no_commas"}, reply).on_topic

    assert not named(other)
    for name in (topic, one, topic.upper(), one.capitalize()):
        assert all(named(text) for text in (f"A {name}.", f"The {name}'s use", f"({name})", f"{name}-like things", f"“{name}”"))


def test_no_reply_that_names_one_topic_alone_is_on_another():
    for topic in TOPICS:
        for other in TOPICS:
            if other != topic:
                assert topic_names(topic).isdisjoint(topic_names(other)), (topic, other)


def test_words_are_what_is_counted_in_metrics_too():
    assert words("1. Don't pay $3.50 - e.g. here_now - 20%!\n2. A–B") == [
        "Don't",
        "pay",
        "3.50",
        "e.g.",
        "here",
        "now",
        "20",
        "A",
        "B",
    ]
