"""The client for OpenAI-compatible servers, against a real one on this machine: cache, failures, concurrency, and the budget."""

import json

import pytest
from judge_server import Server, endpoint

from drift.engine.questions import most_tokens, with_fields
from drift.errors import UserError
from drift.mine.cascade import question


def ask(which, texts):
    questions = [question(("Tell me about tea.", "Tea is hot.", text)) for text in texts]
    return which.ask(questions, lambda count: None, temperature=0.0, max_tokens=20, advice="")


def stiff(count, start=0):
    return [f"a stiff text {i}" for i in range(start, start + count)]


def test_temporary_failures_are_retried_and_no_question_is_asked_twice(tmp_path):
    with Server(fail_first=4, slow=0.02) as server:
        first = ask(endpoint(server, tmp_path), stiff(6))
        assert first == ["dsat style 0.9"] * 6 and server.served == 10 and 1 < server.most <= 3
        assert ask(endpoint(server, tmp_path), stiff(6)) == first and server.served == 10
        ask(endpoint(server, tmp_path, model="other"), stiff(1))
        assert server.served == 11


def test_a_refusal_names_the_server_and_the_same_command_asks_only_the_rest(tmp_path):
    with Server() as server:
        ask(endpoint(server, tmp_path), stiff(2))
        server.refuse = True
        with pytest.raises(UserError, match=r"127.0.0.1.*no such key.*2 of the 5 .* answered.*run the same command again"):
            ask(endpoint(server, tmp_path), stiff(5))
        server.refuse, before = False, server.served
        assert ask(endpoint(server, tmp_path), stiff(5)) == ["dsat style 0.9"] * 5 and server.served == before + 3


def test_one_cap_holds_for_all_questions_of_a_run_and_for_the_run_that_goes_on(tmp_path):
    """A dollar a question. Calls of two, as the miner asks part by part; the same again with the same cap; then a higher one."""
    with Server() as server:
        which = endpoint(server, tmp_path, max_dollars=5)
        assert ask(which, stiff(2)) == ask(which, stiff(2, 2)) == ["dsat style 0.9"] * 2
        with pytest.raises(UserError, match=r"max_dollars=5.*1 of the 2 questions.*5 dollars.*only the rest will be asked"):
            ask(which, stiff(2, 4))
        assert server.served == 5
        with pytest.raises(UserError, match="5 of the 6 questions are answered, for 5 dollars"):
            ask(endpoint(server, tmp_path, max_dollars=5), stiff(6))
        assert server.served == 5
        assert ask(endpoint(server, tmp_path, max_dollars=8), stiff(8)) == ["dsat style 0.9"] * 8 and server.served == 8


def test_what_a_killed_process_left_beside_an_answer_is_gone_once_the_question_is_asked_again(tmp_path):
    with Server() as server:
        ask(endpoint(server, tmp_path), stiff(2))
        first, second = sorted(tmp_path.glob("*.json"))
        (tmp_path / f".{first.name}.0123456789abcdef").write_text("{")
        other = tmp_path / f".{second.name}.0123456789abcdef"
        other.write_text("{")
        first.unlink()
        ask(endpoint(server, tmp_path), stiff(2))
        assert sorted(tmp_path.iterdir()) == sorted([first, second, other]), "nobody asked the other question again"


@pytest.mark.parametrize("concurrency", [1, 8, 64])
def test_the_cap_is_never_exceeded_however_many_ask_at_once(concurrency, tmp_path):
    with Server(slow=0.01) as server, pytest.raises(UserError, match="7 of the 80 questions are answered, for 7 dollars"):
        ask(endpoint(server, tmp_path, concurrency=concurrency, max_dollars=7.5), stiff(80))
    assert server.served == 7 and len(list(tmp_path.iterdir())) == 7


@pytest.mark.parametrize("usage", [
    None, {"prompt_tokens": -5, "completion_tokens": -5, "total_tokens": -10},
    {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
], ids=["none", "negative", "zero"])  # fmt: skip
def test_a_server_that_does_not_say_what_a_request_took_spends_too(usage, tmp_path, capsys):
    """A question has a little more than 1,000 bytes, each a token and a dollar at most: nine of them fit into 10,000 dollars."""
    with Server(usage=usage) as server, pytest.raises(UserError, match="max_dollars=10000"):
        ask(endpoint(server, tmp_path, dollars_per_million_input=1e6, max_dollars=10_000), stiff(60))
    assert server.served == 9
    assert capsys.readouterr().out.count("does not report token counts") == 1


def test_an_answer_without_text_is_paid_for_and_asked_again(tmp_path):
    for nothing in (None, "", "  \n"):
        folder = tmp_path / repr(nothing)
        with Server(says=lambda said, nothing=nothing: nothing) as server:
            assert ask(endpoint(server, folder), stiff(2)) == [None, None]
            kept = [json.loads(file.read_text()) for file in folder.iterdir()]
            assert [(entry["answer"], entry["dollars"]) for entry in kept] == [(None, 1.0)] * 2
            server.says = lambda said: "sat"
            with pytest.raises(UserError, match="1 of the 2 questions are answered, for 3 dollars"):
                ask(endpoint(server, folder, max_dollars=3, concurrency=1), stiff(2))
            assert ask(endpoint(server, folder, max_dollars=4), stiff(2)) == ["sat", "sat"] and server.served == 4


def test_an_answer_in_another_form_does_not_count(tmp_path):
    for i, choices in enumerate(([None], [{"message": None}], [{"message": {"content": [{"type": "text", "text": "sat"}]}}])):
        with Server(choices=choices, usage=["?"]) as server:
            assert ask(endpoint(server, tmp_path / str(i)), stiff(1)) == [None], choices


def test_equal_questions_are_asked_once(tmp_path):
    with Server(slow=0.01) as server:
        done = []
        questions = [question(("Tell me about tea.", "Tea is hot.", "a stiff text"))] * 40
        assert endpoint(server, tmp_path).ask(questions, done.append, max_tokens=20, advice="") == ["dsat style 0.9"] * 40
        assert server.served == 1 and sum(done) == 40


def test_a_cached_answer_that_cannot_be_read_is_asked_for_again(tmp_path):
    with Server() as server:
        ask(endpoint(server, tmp_path), stiff(3))
        for file, text in zip(tmp_path.iterdir(), ("", "[1]", '{"answer": [{"type": "text"}]}'), strict=True):
            file.write_text(text)
        assert ask(endpoint(server, tmp_path), stiff(3)) == ["dsat style 0.9"] * 3 and server.served == 6


REASONING = {"max_tokens": None, "max_completion_tokens": 50, "temperature": None, "logit_bias": {7: -1}}


def test_fields_change_add_and_leave_out_what_is_sent_and_belong_to_the_question(tmp_path):
    """Models that think refuse max_tokens and temperature. The cap knows the limit that replaces the program's."""
    with Server() as server:
        which = endpoint(server, tmp_path, fields=REASONING, dollars_per_million_output=2.0)
        assert ask(which, stiff(1)) == ["dsat style 0.9"]
        (body,) = server.bodies
        assert not {"max_tokens", "temperature", "extra_body"} & set(body) and body["max_completion_tokens"] == 50
        assert which.budget.dearest >= 1.0 and ask(endpoint(server, tmp_path, fields=REASONING), stiff(1)) and server.served == 1
        ask(endpoint(server, tmp_path, fields={"reasoning_effort": "low"}), stiff(1))
        assert server.bodies[1]["reasoning_effort"] == "low" and server.bodies[1]["max_tokens"] == 20
        assert which.key() != endpoint(server, tmp_path).key()
    request = {"messages": [], "max_tokens": 20, "extra_body": {"top_k": 5}}
    assert most_tokens(with_fields(request, REASONING)) == (0, 50) and most_tokens(request) == (0, 20)
    assert with_fields(request, {"top_p": 0.5}) == request | {"extra_body": {"top_k": 5, "top_p": 0.5}}


@pytest.mark.parametrize(("fields", "message"), [
    ({"stream": True}, r"endpoint.fields.stream: this field is the program's"),
    ({"max_tokens": None}, "leaves answers without a limit.*max_completion_tokens"),
    ({"max_completion_tokens": 0}, "max_completion_tokens=0: expected a whole number"),
])  # fmt: skip
def test_fields_that_no_answer_can_be_read_or_capped_with_are_refused(fields, message, tmp_path):
    with Server() as server, pytest.raises(UserError, match=message):
        endpoint(server, tmp_path, fields=fields).check()


def test_a_server_that_refuses_a_field_is_told_how_to_leave_it_out(tmp_path):
    with Server() as server:
        server.status = 400
        with pytest.raises(UserError, match=r"status 400.*\+\+endpoint\.fields\.temperature=null"):
            ask(endpoint(server, tmp_path), stiff(1))
