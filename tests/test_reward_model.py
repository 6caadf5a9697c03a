"""The reward model as a judge: scores by hand, whatever they are computed with; what does not fit is refused; runs on real logs."""

import json
import math
import shutil

import pytest
from conftest import compose, perform

from drift.config import build
from drift.errors import UserError
from drift.identity import identity
from drift.judge.reward_model import RewardModel
from drift.model import reward
from drift.plan.found import stages_of
from drift.records import Record, Reply, digest, read_examples

PLAIN = "{% for message in messages %}{{ message['content'] }}{% endfor %}"  # the last token is the reply's last letter
SETTINGS = {
    "revision": None, "positive": None, "output": "log_probability", "max_tokens": None, "tokens_per_batch": 4096, "group_size": 4,
    "precision": "float32",
}  # fmt: skip


def judge(directory, **settings):
    return RewardModel(path=str(directory), **SETTINGS | settings)


def write(tokenizer, output, *, template=None, by_hand=False, **config):
    """A tiny reward model. `by_hand`: every letter's hidden vector is (1, 1, …), that of "?" is (-1, -1, …), and the head's k-th
    output is k + 1 times their mean."""
    import torch
    from transformers import LlamaConfig, LlamaForSequenceClassification

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = {"pad_token_id": None, "max_position_embeddings": 512} | ({} if "id2label" in config else {"num_labels": 1}) | config
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = LlamaForSequenceClassification(
            LlamaConfig(vocab_size=len(tokenizer), initializer_range=0.3, bos_token_id=None, eos_token_id=None, **sizes, **config)
        )
    if by_hand:
        with torch.no_grad():
            for layer in model.model.layers:
                layer.self_attn.o_proj.weight.zero_()
                layer.mlp.down_proj.weight.zero_()
            model.model.embed_tokens.weight.fill_(1)
            model.model.embed_tokens.weight[tokenizer.convert_tokens_to_ids("?")] = -1
            for k, row in enumerate(model.score.weight):
                row.fill_((k + 1) / len(row))
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)
    if template is not None:
        (output / "chat_template.jinja").write_text(template)
    return output


@pytest.fixture(scope="module")
def model(tokenizer, tmp_path_factory):
    return write(tokenizer, tmp_path_factory.mktemp("reward") / "model")


def item(i, *replies):
    prompt = [{"role": "user", "content": f"Question {i}" * (i + 1)}]
    record = Record(
        id=f"r{i}", conversation=f"c{i}", prompt=prompt, reply="Disliked.", label="dsat", ended=True, feedback="No.", revised=None,
        satisfied=False, truth=None, provenance=None,
    )  # fmt: skip
    return record, [Reply(text=text, num_tokens=1, ended=True) for text in replies]


ITEMS = [item(i, "Yes.", f"No, {'never ' * 7 * i}!", "Perhaps?") for i in range(4)]


def scores(judge, items=ITEMS):
    with judge.open() as grade:
        return [score for scores in grade(items) for score in scores]


@pytest.mark.parametrize("pad", [None, 5, "<|im_end|>"])
def test_a_score_is_the_models_own_whatever_it_is_computed_with(pad, tokenizer, tmp_path):
    """Alone, as the model itself says; with others, under three paddings, one of which is a token of every conversation."""
    import torch
    from transformers import AutoModelForSequenceClassification

    pad = tokenizer.convert_tokens_to_ids(pad) if isinstance(pad, str) else pad
    directory = write(tokenizer, tmp_path / "model", pad_token_id=pad)
    settings = json.loads((directory / "tokenizer_config.json").read_text())
    (directory / "tokenizer_config.json").write_text(json.dumps(settings | {"padding_side": "left"}))
    own, model = [], AutoModelForSequenceClassification.from_pretrained(directory).eval()
    for record, replies in ITEMS:
        for reply in replies:
            text = tokenizer.apply_chat_template([*record.prompt, {"role": "assistant", "content": reply.text}], tokenize=False)
            with torch.no_grad():
                own.append(model(**tokenizer(text, return_tensors="pt", add_special_tokens=False)).logits.item())
    assert max(own) - min(own) > 0.1
    for tokens_per_batch in (1, 700, 100_000):
        assert scores(judge(directory, tokens_per_batch=tokens_per_batch)) == pytest.approx(own, abs=1e-5)
    backwards = scores(judge(directory), ITEMS[::-1])
    assert [backwards[3 * (3 - i) + j] for i in range(4) for j in range(3)] == pytest.approx(own, abs=1e-5)


LABELS = {"id2label": {0: "bad", 1: "good"}, "label2id": {"bad": 0, "good": 1}}
HEADS = {  # (config, settings) -> scores of a reply whose outputs are 1, 2 and of one whose outputs are -1, -2
    "one output": ({"num_labels": 1}, {}, (1.0, -1.0)),
    "its log-probability": (LABELS, {"positive": "good"}, (-math.log(1 + math.exp(-1)), -math.log(1 + math.exp(1)))),
    "of the other class": (LABELS, {"positive": "bad"}, (-math.log(1 + math.exp(1)), -math.log(1 + math.exp(-1)))),
    "its logit": (LABELS, {"positive": "good", "output": "logit"}, (2.0, -2.0)),
    "unnamed": ({"num_labels": 2}, {"positive": "LABEL_1", "output": "logit"}, (2.0, -2.0)),
    "independent classes": (
        LABELS | {"problem_type": "multi_label_classification"},
        {"positive": "good"},
        (-math.log(1 + math.exp(-2)), -math.log(1 + math.exp(2))),
    ),
    "qualities": (LABELS | {"problem_type": "regression"}, {"positive": "good", "output": "logit"}, (2.0, -2.0)),
}


@pytest.mark.parametrize("head", HEADS)
def test_heads_by_hand(head, tokenizer, tmp_path):
    config, settings, expected = HEADS[head]
    chosen = judge(write(tokenizer, tmp_path / "model", template=PLAIN, by_hand=True, **config), **settings)
    chosen.check()
    assert scores(chosen, [item(0, "Is it so!", "Is it so?")]) == pytest.approx(expected, abs=1e-5)


def damaged(directory):
    weights = directory / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])


def headless(directory):
    from safetensors.torch import load_file, save_file

    weights = load_file(directory / "model.safetensors")
    del weights["score.weight"]
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})


def changed(**settings):
    def change(directory):
        config = json.loads((directory / "config.json").read_text())
        (directory / "config.json").write_text(json.dumps(config | settings))

    return change


def template(text):
    return lambda directory: (directory / "chat_template.jinja").write_text(text)


UNFIT = {
    "no directory": (lambda directory: shutil.rmtree(directory), {}, "method.judge.path=.* is neither a directory nor a hub id"),
    "no template": (lambda directory: (directory / "chat_template.jinja").unlink(), {}, "has no chat template"),
    "a template without replies": (template("{{ messages[0]['content'] }}"), {}, "leaves out or rewrites the assistant's message"),
    "damaged": (damaged, {}, "is cut short or too long"),
    "headless": (headless, {}, "do not match its configuration. missing: score.weight"),
    "of another size": (changed(id2label={"0": "a", "1": "b"}), {"positive": "a"}, "of the wrong shape: score.weight"),
    "custom code": (changed(auto_map={"AutoModel": "m.M"}), {}, "asks for Python code to be run"),
    "another architecture": (changed(architectures=["LlamaForRewardModelWithGating"]), {}, "not a LlamaForSequence"),
    "quantised": (changed(quantization_config={"quant_method": "gptq"}), {}, "already quantised"),
    "quantised on loading": (changed(quantization_config={"load_in_4bit": True}), {}, "which a judge does not read"),
    "an adapter": (lambda directory: (directory / "adapter_config.json").write_text("{}"), {}, "is an adapter. .* merge it"),
    "a class of one output": (lambda _: None, {"positive": "good"}, "has one output. Set method.judge.positive=null"),
    "no room": (lambda _: None, {"max_tokens": 0}, "method.judge.max_tokens=0: expected at least 1"),
}


@pytest.mark.parametrize("fault", UNFIT)
def test_what_is_no_reward_model_is_refused_before_anything_is_loaded(fault, model, tmp_path, monkeypatch):
    break_it, settings, message = UNFIT[fault]
    shutil.copytree(model, tmp_path / "model")
    break_it(tmp_path / "model")
    monkeypatch.setattr(reward, "_load", None)
    with pytest.raises(UserError, match=message) as refused:
        judge(tmp_path / "model", **settings).check()
    assert len(str(refused.value)) < 450 + 2 * len(str(tmp_path))


def test_a_causal_language_model_is_no_reward_model(tiny):
    with pytest.raises(UserError, match="is a LlamaForCausalLM, not a LlamaForSequenceClassification: it has no head that scores"):
        judge(tiny).check()


def test_a_class_must_be_named_by_one_of_the_heads_labels(tokenizer, tmp_path):
    directory = write(tokenizer, tmp_path / "model", **LABELS)
    for positive, message in ((None, "method.judge.positive=null: .* has 2 outputs .bad, good."), ("goood", "Did you mean good")):
        with pytest.raises(UserError, match=message):
            judge(directory, positive=positive).check()
    changed(problem_type="regression")(directory)
    with pytest.raises(UserError, match="are scores, not classes. Set method.judge.output=logit"):
        judge(directory, positive="good").check()


def test_nothing_is_truncated_a_longer_conversation_has_no_score(model, tokenizer):
    """A token is a byte here. One token less than it needs is too few; so are the model's 512 positions for a long reply."""
    record, (reply,) = item(0, "Well.")
    room = len(reward.tokens_of(tokenizer, record.prompt, reply.text, 512) or [])
    assert None not in scores(judge(model, max_tokens=room), [(record, [reply])])
    assert scores(judge(model, max_tokens=room - 1), [(record, [reply])]) == [None]
    (first, second) = scores(judge(model), [item(0, "Well.", "Well. " * 90)])
    assert first is not None and second is None


def test_the_key_is_the_models_bytes_not_its_path(model, tmp_path):
    shutil.copytree(model, tmp_path / "copy")
    assert identity(judge(tmp_path / "copy")) == identity(judge(model))
    assert identity(judge(model, tokens_per_batch=1, group_size=1)) == identity(judge(model))  # float32
    for name, value in (("max_tokens", 9), ("positive", "good"), ("output", "logit"), ("precision", "bfloat16")):
        assert identity(judge(model, **{name: value})) != identity(judge(model)), name
    changed(max_position_embeddings=300)(tmp_path / "copy")
    assert identity(judge(tmp_path / "copy")) != identity(judge(model))


@pytest.fixture
def log(tmp_path):
    """Thumbs down on 24 replies and up on 8, in the words of `data=messages`."""
    rows = [
        [{"role": "user", "content": f"Question {i}?"}, {"role": "assistant", "content": f"Answer {i}.", "feedback": mark}]
        for i in range(32)
        for mark in [("up", "down", "down", "down")[i % 4]]
    ]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    return ["data=messages", f"data.path={tmp_path}/log.jsonl", "mine=rules", "evaluation.heldout.num_sampled_prompts=0"]


def test_iterdpo_and_the_filter_run_on_a_real_log_with_it(model, log, cache, tmp_path):
    """Every pair is in the order of its scores, and the chosen reply beats the disliked one. With a copy of the model elsewhere
    everything is found in the store."""
    small = ["model=tiny", "iterations=1", "examples_per_iteration=6", "train.examples_per_step=2", "train.tokens_per_batch=500"]
    small += ["sampler.max_new_tokens=8", "sampler.precision=float32", f"model.cache_dir={cache}", f"store.dir={tmp_path}/store"]
    shutil.copytree(model, tmp_path / "copy")
    chosen = ["method=iterdpo", "judge=reward_model", "judge@filters.judge=reward_model", "filters.judge.group_size=5"]
    chosen += ["method.judge.precision=float32", "filters.judge.precision=float32"]
    for place in (model, tmp_path / "copy"):
        paths = [f"method.judge.path={place}", f"filters.judge.path={place}"]
        state = perform(tmp_path / f"run of {place.name}", *small, *log, *chosen, *paths)
    assert [stage["name"] for stage in state["stages"] if not stage["hit"]] == []
    records = {row["id"]: Record(**row) for row in map(json.loads, open(tmp_path / "run of copy/records.jsonl"))}
    pairs = read_examples(tmp_path / "run of copy/iteration_1/examples.jsonl")
    sides = [[one.replies[0].text, one.replies[1].text, records[one.record].reply] for one in pairs]
    with judge(model).open() as grade:
        asked = [(records[one.record], item(0, *texts)[1]) for one, texts in zip(pairs, sides, strict=True)]
        found = grade(asked)
    assert len(found) == 6 and all(best > max(worst, disliked) for best, worst, disliked in found)
    counts = state["points"][1]["counts"]
    assert counts["seen"] >= 6 + counts["disfavoured"] and counts["disfavoured"] > 0 == counts["unjudged"]
    assert_the_agreement_is_that_of_the_log(tmp_path / "run of copy", model)
    found, missing = stages_of(build(compose(*small, *log, *chosen, *paths)))
    assert (found["agreement"], missing) == (1, None), "a plan looks at the finished run"


def assert_the_agreement_is_that_of_the_log(run, model):
    """The AUC is scikit-learn's over the records that are not held out; both judges are the same, and asked once."""
    from sklearn.metrics import roc_auc_score

    records = [Record(**row) for row in map(json.loads, open(run / "records.jsonl"))]
    kept = [one for one in records if int(digest(one.conversation)[:8], 16) / 16**8 >= 0.2]
    with judge(model).open() as grade:
        scores = grade([(one, [Reply(text=one.reply, num_tokens=0, ended=one.ended)]) for one in kept])
    found = json.loads((run / "method.judge/agreement.json").read_text())
    (row,) = [one for one in found["measures"] if one["measure"] == "AUC"]
    assert row["mean"] == pytest.approx(roc_auc_score([one.label == "sat" for one in kept], [score for (score,) in scores]))
    assert row["number"] == len(kept) < len(records) and not (run / "filters.judge").exists()
    assert "<h2>Judges and users</h2>" in (run / "report.html").read_text()
