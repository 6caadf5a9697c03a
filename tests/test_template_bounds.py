"""Chat templates that do not end, explode or reach for Python are stopped with a sentence, whenever they begin to."""

import resource
import shutil
import signal
import threading

import pytest

from drift.errors import UserError
from drift.model import template
from drift.model.bounds import TooLong, bounded
from drift.model.chat import check_template, prompt_ids
from drift.model.policy import load_tokenizer, policy_at
from drift.model.template import MAX_TEMPLATE
from drift.model.tiny import CHATML


@pytest.fixture
def load(tiny, tmp_path, monkeypatch):
    """The tiny model's tokenizer with another chat template; where `seconds` is given, a rendering gets no longer."""
    model = shutil.copytree(tiny, tmp_path / "model")

    def load(text, seconds=template.SECONDS):
        monkeypatch.setattr(template, "SECONDS", seconds)
        (model / "chat_template.jinja").write_text(text)
        return load_tokenizer(policy_at(model))

    return load


LOOPS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
TOO_MUCH = {
    "loops": (LOOPS, "more than 0.2 s"),
    "a long text": ("{{ 'a' * 10**10 }}", "MiB of memory"),
    "a long list": ("{{ ([0] * 10**10)|length }}", "MiB of memory"),
    "a wide column": ("{{ 'a'|center(10**10) }}", "MiB of memory"),
    "doubling": ("{% set n = namespace(x='a') %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}", "MiB of memory"),
    "words": ("{{ lipsum(n=999999) }}", "more than 0.2 s"),
    "ten million characters": ("{{ 'a' * 10**7 }}", "a text of 10000"),
}


@pytest.mark.parametrize("name", TOO_MUCH)
def test_a_template_that_does_not_end_or_explodes_is_stopped_with_a_sentence(load, name):
    text, message = TOO_MUCH[name]
    with pytest.raises(UserError, match=rf"model does not finish or grows out of bounds: for [12] mes.*{message}"):
        check_template(load(text + CHATML, seconds=0.2 if "0.2 s" in message else template.SECONDS), "here", system=False)


REFUSED = {
    "a range": ("{{ range(10**9)|list }}", "OverflowError"),
    "classes": ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "SecurityError"),
    "globals": ("{{ lipsum.__globals__['os'].system('true') }}", "SecurityError"),
    "a broken tag": ("{% for %}", "TemplateSyntaxError"),
    "a call of itself": ("{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", "RecursionError"),
    "its own complaint": ("{{ raise_exception('no' * 10**6) }}", "TemplateError: (no){150}\\. Training"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_template_that_fails_or_reaches_for_python_is_refused_with_a_sentence(load, name):
    text, error = REFUSED[name]
    with pytest.raises(UserError, match=f"can't be used for training: with one turn, the chat template fails with {error}"):
        check_template(load(text + CHATML), "here", system=False)


def test_a_template_that_waits_for_its_log_is_stopped_when_it_begins(load):
    for trap, seconds in ((LOOPS, 0.2), ("{{ 'a' * 10**10 }}", template.SECONDS)):
        tokenizer = load(f"{{% if 'now' in messages[-1].content %}}{trap}{{% endif %}}{CHATML}", seconds)
        check_template(tokenizer, "here", system=False)
        with pytest.raises(UserError, match="does not finish or grows out of bounds: for 1 messages with 4 characters"):
            prompt_ids(tokenizer, [{"role": "user", "content": "now!"}])


def test_an_invalid_template_is_refused_when_it_is_loaded(load):
    with pytest.raises(UserError, match=rf"has {MAX_TEMPLATE + 1} characters, expected at most {MAX_TEMPLATE}"):
        load("a" * (MAX_TEMPLATE + 1))


def test_long_messages_are_rendered_as_ever(load):
    text = "word " * 20_000
    assert len(prompt_ids(load(CHATML), [{"role": "user", "content": text}])) > len(text)


def test_bounds_leave_timer_handler_and_limit_as_they_were():
    before = resource.getrlimit(resource.RLIMIT_AS), signal.getsignal(signal.SIGVTALRM)
    with pytest.raises(TooLong), bounded(seconds=0.05, memory=2**28):
        while True:
            pass
    with pytest.raises(MemoryError), bounded(seconds=5, memory=2**28):
        bytearray(2**30)
    assert before == (resource.getrlimit(resource.RLIMIT_AS), signal.getsignal(signal.SIGVTALRM))
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0.0, 0.0)


def test_another_thread_renders_without_bounds_and_without_an_error():
    seen = []

    def work():
        with bounded(seconds=0.01, memory=1):
            seen.append(sum(range(10**6)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [499999500000]
