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


def met(request, reply):
    return verify({"topic": "tea", "request": request}, reply, ended=True).met


def joined(rng, chosen):
    """Words with signs between them that are none."""
    return "".join(word + rng.choice([" ", " ", ", ", "; ", " – ", " - ", " & ", " ... ", "\n"]) for word in chosen)


@pytest.mark.parametrize("most", [20, 30, 40])
def test_a_limit_counts_words_as_a_person_does(most):
    rng = random.Random(most)
    for _ in range(COUNT):
        chosen = rng.choices(POOL, k=rng.choice([1, 9, 10, most - 1, most, most + 1, most + 2, 2 * most]))
        reply = joined(rng, chosen)
        if rng.random() < 0.3:
            reply = "".join(f"{i}. {line}\n" for i, line in enumerate(reply.split("\n"), 1))
        assert met(f"at_most_{most}_words", reply) == (len(chosen) <= most), (len(chosen), reply)
        assert met("at_least_10_words", reply) == (len(chosen) >= 10), (len(chosen), reply)
    for ask in REQUESTS[f"at_most_{most}_words"].asks:
        assert "under" not in ask and f"{most} words" in ask  # just so many are allowed


def test_the_longest_word_is_measured_in_letters():
    rng = random.Random(5)
    for _ in range(COUNT):
        length = rng.randint(7, 13)
        long = rng.choice(["a" * length, "É" + "a" * (length - 1), f"{'b' * length}'s", f"so-{'c' * length}", f"({'d' * length})"])
        reply = joined(rng, [*rng.choices(POOL, k=5), long, *rng.choices(POOL, k=5)])  # 7 letters at most
        assert met("a_long_word", reply) == (length >= 9) and met("no_long_words", reply) == (length <= 11), reply
    assert not met("a_long_word", "It has 123456789 parts.") and not met("a_long_word", "A well-made ice-cream.")


def test_one_sentence_is_one_whatever_stands_in_it():
    rng = random.Random(2)
    for _ in range(COUNT):
        first, second = (text + rng.choice(ENDS) for text in rng.sample(ONE, 2))
        assert met("one_sentence", first) and not met("at_least_two_sentences", first), first
        assert met("one_sentence", f"“{first}”") and met("one_sentence", f"1. {first}"), first
        for several in (f"{first} {second}", f"{first}\n{second}", f"{first}\n\n- {second}", f"{first} {second} {first}"):
            assert not met("one_sentence", several) and met("at_least_two_sentences", several), several
        assert not met("one_sentence", first.rstrip('.!?…”")*')), first
    assert not met("one_sentence", "Tea is hot.Coffee is cold.") and not met("one_sentence", "")


def test_a_list_has_bullets_or_a_first_and_a_second_point():
    rng = random.Random(3)
    for _ in range(COUNT):
        points = [rng.choice(ONE[:7]) for _ in range(rng.randint(2, 5))]
        mark = rng.choice(["{}.", "{})", "({})", "**{}.**"])
        lines = [f"{mark.format(i)} {point}" for i, point in enumerate(points, 1)]
        start, between = rng.choice(["", "Here is a list:\n", "A: ", "Sure.\n\n"]), rng.choice(["\n", "\n\n", "\n  "])
        assert not met("no_list", start + between.join(lines)), lines
        assert not met("no_list", ". ".join(f"{i}. {point}" for i, point in enumerate(points, 1)))
        assert not met("no_list", "\n".join(f"{rng.choice('-*•')} {point}" for point in points))
        for other in (start + lines[0], "\n".join(points), "\n".join(lines[1:]), f"{lines[0]}\n2.", " - ".join(points)):
            assert met("no_list", other), other
    assert met("no_list", "It takes 1 cup of tea and 2 of milk.")


def test_a_sentence_of_fifteen_words_is_one_sentence_and_has_them():
    rng = random.Random(6)
    plain = [word for word in POOL if "." not in word and word != "20"]  # "; 20." begins a list
    for _ in range(COUNT):
        count = rng.randint(10, 20)
        first = "The " + joined(rng, rng.choices(plain, k=count - 1)).replace("\n", " ").replace("...", "").strip(" ,;–-&") + "."
        assert met("one_sentence_of_15_words", first) == (count >= 15), (count, first)
        assert not met("one_sentence_of_15_words", f"{first} It is {first}")
        assert met("at_most_two_sentences", f"{first} It is {first}")
        assert not met("at_most_two_sentences", f"{first} It is {first} It was.")


@pytest.mark.parametrize(("topic", "one", "other"), [
    ("caves", "cave", "You can do that whenever you want to."), ("leaves", "leaf", "You should learn at least one."),
    ("shoes", "shoe", "You should show it."), ("bees", "bee", "It has been a very long day."), ("movies", "movie", "They move on."),
    ("buses", "bus", "Business is busy."), ("cars", "car", "Take care of carbon."), ("cats", "cat", "Catch this category."),
    ("tea", "tea", "The teacher of the team."), ("stars", "star", "Start to stare."), ("trains", "train", "Training is hard."),
    ("hats", "hat", "Some hate it."), ("bears", "bear", "A beard."), ("parks", "park", "Parking is dear."),
])  # fmt: skip
def test_a_topic_is_named_by_its_own_words_only(topic, one, other):
    def named(reply):
        return verify({"topic": topic, "request": "a_long_word"}, reply, ended=True).on_topic

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
