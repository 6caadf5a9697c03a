"""Our DPO step against two others: TRL's `DPOTrainer`, and the formula written out, one unpadded row at a time."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from conftest import float64_throughout, preference
from datasets import Dataset
from torch import Tensor
from torch.nn.functional import log_softmax, logsigmoid
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer

from drift.model.policy import Policy, load_model, load_tokenizer, policy_at
from drift.model.tiny import Tiny
from drift.objective.dpo import Dpo
from drift.objective.dpo_norm import DpoNorm
from drift.objective.hinge import Hinge
from drift.objective.ipo import Ipo
from drift.objective.kto import Kto
from drift.objective.nll import Nll
from drift.objective.robust import Robust
from drift.objective.sdpo import Sdpo
from drift.records import Example
from drift.score import padded
from drift.score.frozen_outputs import load_output, save_outputs
from drift.score.module import ReferenceModule
from drift.score.plan import TokenisedExample, layout_module, make_plan, tokenize
from drift.score.reference import Reference
from drift.train.fit import Steps
from drift.train.frozen import without_layers
from drift.train.lora import Lora
from drift.train.modules import PolicyModule, totals_of
from drift.train.settings import Train

BETA, NLL_WEIGHT = 0.1, 0.3
OBJECTIVES = {
    "sigmoid": lambda weight: Dpo(weight=weight, beta=BETA), "hinge": lambda weight: Hinge(weight=weight, beta=BETA),
    "robust": lambda weight: Robust(weight=weight, beta=BETA, label_noise=0.2), "ipo": lambda weight: Ipo(weight=weight, beta=BETA),
    "sigmoid_norm": lambda weight: DpoNorm(weight=weight, beta=BETA), "nll": lambda weight: Nll(weight=weight),
}  # fmt: skip  # by TRL's names
LORA = Lora(rank=4, scale=2.0, top_share=1.0, quantization="none")
THREE_BATCHES = {"shared": 250, "padded": 530}  # the limits of tokens that cut PAIRS into three batches


def pair(*prompt: str, chosen: str, rejected: str, chosen_ended: bool = True, system: str | None = None) -> Example:
    """`prompt`: user and assistant turns, the first and the last one the user's."""
    turns = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(prompt)]
    messages = [{"role": "system", "content": system}] if system else []
    how = {"chosen_ended": chosen_ended, "fresh": ("rejected",), "record": prompt[0]}
    return preference(messages + turns, chosen, rejected, **how)


PAIRS = [
    pair("Name a colour.", chosen="Blue.", rejected="A colour is what the eye makes of light; blue, say."),
    pair("Spell cat.", "k-a-t", "No, with a c!", chosen="Sorry: c-a-t.", rejected="k-a-t", system="Teach spelling."),
    pair("2 + 2?", "5", "Are you sure?", "Yes.", "Count again.", chosen="It is 4, I was wrong.", rejected="5!"),
    pair("Grüß mich.", chosen="Grüß Gott, schön dass", rejected="Hi", chosen_ended=False),  # cut off by a length limit
    pair("Say nothing.", chosen="", rejected="Nothing."),
]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    cache_dir = str(tmp_path_factory.mktemp("cache"))
    return policy_at(Tiny(layers=2, hidden_size=32, weights_seed=0, cache_dir=cache_dir, template={}).directory())


def policy_and_reference(start: Policy, adapter: Lora | None, dtype: torch.dtype, seed: int = 1) -> tuple[Any, Any]:
    """A policy that has moved away from the start policy (with an adapter: by its B matrices), and the start policy."""
    policy, reference = (load_model(start, dtype, trainable=trainable).to("cpu") for trainable in (True, False))
    if adapter is not None:
        policy = adapter.attach(policy)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in policy.named_parameters():
        if parameter.requires_grad and "lora_A" not in name:
            parameter.data += 0.02 * torch.randn(parameter.shape, generator=generator).to(dtype)
    return policy, reference


def train_settings(examples_per_step: int, layout: Any) -> Train:
    """Of one plain step in float32."""
    return Train(
        learning_rate=1.0,
        optimizer="adamw",
        epochs=1,
        examples_per_step=examples_per_step,
        example_order="shuffled",
        layout=layout,
        tokens_per_batch=10_000,
        frozen_cache_gib=1.0,
        warmup_share=0.0,
        final_rate_share=1.0,
        rate_decay=1.0,
        max_grad_norm=1.0,
        gradient_checkpointing=False,
        precision="float32",
        parameters="float32",
        max_tokens=4096,
        signal_every=0,
        checkpoint_every_steps=1,
        strategy="ddp",
        cpu_offload=False,
        adapter=None,
    )


def our_step(
    policy: Any,
    reference: Any,
    rows: list[TokenisedExample],
    pad_id: int,
    *,
    nll_weight: float = 0.0,
    layout: Any = "padded",
    tokens_per_batch: int,
    adapter: Lora | None = None,
    gradient_checkpointing: bool = False,
    frozen: Path | None = None,
    losses: dict[str, float] | None = None,
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Metrics and gradients of one optimiser step over all rows, as `drift.train.fit.fit` computes them. `frozen`: an empty folder
    for what the layers below the adapter put out."""
    train = replace(train_settings(len(rows), layout), adapter=adapter, gradient_checkpointing=gradient_checkpointing)
    train.check()
    weights = losses or {"sigmoid": 1.0, **({"nll": nll_weight} if nll_weight else {})}
    objectives = {name: OBJECTIVES[name](weight) for name, weight in weights.items()}
    how = {"examples_per_step": len(rows), "tokens_per_batch": tokens_per_batch, "example_order": "shuffled", "seed": 0}
    planned = make_plan(rows, layout=layout, longest_mismatched=None, **how)
    module_of = layout_module(layout)
    scorer = ReferenceModule(reference, module_of, on_batch=lambda rows: None)
    batches = [module_of.collate(planned.sequences(indices), pad_id) for indices in planned.steps[0]]
    layers = adapter.layers(policy.config.num_hidden_layers).start if frozen and adapter else 0
    with save_outputs(reference, layers, frozen), torch.no_grad():
        step = [batch | {"reference": scorer.predict_step(batch)} for batch in batches]
    for batch, indices in zip(step, planned.steps[0], strict=True):
        batch["good"] = tuple(planned.examples[i].good[k] for i, k in planned.places(indices))
        batch["example"] = tuple(indices.index(i) for i, _ in planned.places(indices))
    if layers:
        assert frozen is not None
        step = [batch | {"hidden": load_output(frozen, i)} for i, batch in enumerate(step)]
    module = PolicyModule(policy, train, objectives, module_of, 1, check_start=False, on_step=lambda row: None)
    fabric = lightning.Fabric(accelerator="cpu", devices=1)  # what `manual_backward` asks for, without a whole `fit`
    module.fabric = fabric
    with without_layers(policy, layers):
        metrics = module._step_gradients(step, totals_of(step, None))
    return metrics, gradients(policy)


def trl_step(
    policy: Any, reference: Any, rows: list[TokenisedExample], tokenizer: Any, output_dir: Path, *, losses: dict[str, float]
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Metrics and gradients of TRL's loss on one batch of all `PAIRS`, which must hold the tokens of our `rows`.

    TRL is given the reference as a model of its own, so an adapter in `policy` has no part in it."""
    config = DPOConfig(
        output_dir=str(output_dir),
        report_to="none",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        max_length=None,
        beta=BETA,
        loss_type=["sft" if name == "nll" else name for name in losses],  # "sft" is the mean per chosen token of the batch
        loss_weights=list(losses.values()),
        label_smoothing=0.2 if "robust" in losses else 0.0,
    )
    data = [
        {
            "prompt": pair.prompt,
            "chosen": [{"role": "assistant", "content": pair.replies[0].text}],
            "rejected": [{"role": "assistant", "content": pair.replies[1].text}],
        }
        for pair in PAIRS
    ]
    trainer = DPOTrainer(
        model=policy,
        ref_model=reference,
        args=config,
        train_dataset=Dataset.from_list(data),
        processing_class=tokenizer,
    )
    # TRL trains on all that the template puts after a reply, here a newline, and knows no replies that were cut off.
    # Ours end at the end-of-turn token, or before it if cut. We take that tail off TRL's rows, and check it is no more.
    examples = []
    for example, pair, row in zip(trainer.train_dataset, PAIRS, rows, strict=True):
        for side, reply, own in zip(("chosen", "rejected"), pair.replies, row.sequences, strict=True):
            whole, kept = example[f"{side}_ids"], len(own.reply)
            assert tokenizer.decode(whole[kept:]) == ("\n" if reply.ended else "<|im_end|>\n")
            example[f"{side}_ids"] = whole[:kept]
        examples.append(example)
    batch = trainer.data_collator(examples)
    ours = padded.collate([row.sequences[0] for row in rows] + [row.sequences[1] for row in rows], tokenizer.pad_token_id)
    assert torch.equal(batch["input_ids"], ours["input_ids"])
    assert torch.equal(batch["attention_mask"], ours["attention_mask"])
    assert torch.equal(batch["completion_mask"].bool(), ours["reply_mask"])

    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    trainer.log({})
    metrics = {"loss": loss.item()} | {
        ours: trainer.state.log_history[-1][theirs]
        for ours, theirs in {
            "reward_chosen": "rewards/chosen",
            "reward_rejected": "rewards/rejected",
            "margin": "rewards/margins",
            "accuracy": "rewards/accuracies",
            "logp_chosen": "logps/chosen",
            "logp_rejected": "logps/rejected",
        }.items()
    }
    return metrics, gradients(trainer.model)


def logprobs(model: Any, prompt: list[int], reply: list[int]) -> Tensor:
    """Of every token of the reply."""
    logits = model(input_ids=torch.tensor([prompt + reply])).logits[0]
    predicting = log_softmax(logits, dim=-1)[len(prompt) - 1 : -1]  # a reply token at t is predicted at t - 1
    return predicting.gather(1, torch.tensor(reply)[:, None])[:, 0]


def logprob(model: Any, prompt: list[int], reply: list[int]) -> Tensor:
    return logprobs(model, prompt, reply).sum()


def plain_step(
    policy: Any, reference: Any, rows: list[TokenisedExample], *, nll_weight: float
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """The loss as one would write it down: row by row, nothing padded, nothing shared between rows."""

    dpo = nll = torch.zeros(())
    for row in rows:
        chosen, rejected = (logprob(policy, side.prompt, side.reply) for side in row.sequences)
        with torch.no_grad():
            chosen_0, rejected_0 = (logprob(reference, side.prompt, side.reply) for side in row.sequences)
        dpo = dpo - logsigmoid(BETA * ((chosen - chosen_0) - (rejected - rejected_0))) / len(rows)
        nll = nll - chosen / sum(len(row.sequences[0].reply) for row in rows)
    loss = dpo + nll_weight * nll
    loss.backward()
    return {"loss": loss.item(), "dpo": dpo.item(), "loss_nll": nll_weight * nll.item()}, gradients(policy)


def gradients(model: Any) -> dict[str, Tensor]:
    """Of every trained parameter, none of which may lack one."""
    trained = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained and all(gradient is not None for gradient in trained.values())
    return trained


def assert_same_gradients(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    assert found.keys() == expected.keys()
    for name, wanted in expected.items():
        assert wanted.norm() > 0, name
        difference = float((found[name] - wanted).norm() / wanted.norm())
        assert difference <= tolerance, f"{name}: relative difference {difference:.1e}"


@pytest.mark.parametrize(
    ("layout", "adapter", "losses"),
    [
        ("shared", None, {"sigmoid": 1.0}),
        ("shared", None, {"sigmoid": 1.0, "nll": NLL_WEIGHT}),
        ("padded", None, {"sigmoid": 1.0, "nll": NLL_WEIGHT}),
        ("shared", LORA, {"sigmoid": 1.0, "nll": NLL_WEIGHT}),
        ("padded", LORA, {"sigmoid": 1.0, "nll": NLL_WEIGHT}),
        ("shared", None, {"hinge": 1.0}),
        ("shared", None, {"robust": 1.0}),
        ("shared", None, {"ipo": 1.0}),
        ("shared", None, {"sigmoid_norm": 1.0}),
        ("shared", None, {"sigmoid": 0.5, "ipo": 0.25, "nll": NLL_WEIGHT}),
    ],
    ids=lambda value: (
        "+".join(value) if isinstance(value, dict) else "full" if value is None else "lora" if value is LORA else value
    ),
)
@pytest.mark.peer
def test_loss_rewards_and_gradients_are_those_of_trl(
    start: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str, adapter: Lora | None, losses: dict[str, float]
) -> None:
    """TRL takes all pairs in one batch, we take them in three: a step does not depend on how it is cut."""
    monkeypatch.setenv("CI", "1")  # keeps TRL from sending telemetry
    tokenizer = load_tokenizer(start)
    rows = tokenize(tokenizer, PAIRS)
    policy, reference = policy_and_reference(start, adapter, torch.float32)
    theirs = copy.deepcopy(policy), copy.deepcopy(reference)  # TRL patches the models it is given

    found, found_gradients = our_step(
        policy,
        reference,
        rows,
        tokenizer.pad_token_id,
        losses=losses,
        layout=layout,
        tokens_per_batch=THREE_BATCHES[layout],
        adapter=adapter,
    )
    expected, expected_gradients = trl_step(*theirs, rows, tokenizer, tmp_path, losses=losses)

    assert abs(found["margin"]) > 0.01, "the policy must differ from the reference for this to say much"
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-5, abs=1e-5)
    assert_same_gradients(found_gradients, expected_gradients, 1e-5)


@pytest.fixture(scope="module", params=[None, LORA], ids=["full", "lora"])
def plain(request: pytest.FixtureRequest, start: Policy) -> tuple[Lora | None, dict[str, float], dict[str, Tensor]]:
    """The plain formula's metrics and gradients in float64, with the adapter that is trained."""
    policy, reference = float64_models(start, request.param)
    return request.param, *plain_step(policy, reference, tokenize(load_tokenizer(start), PAIRS), nll_weight=NLL_WEIGHT)


def float64_models(start: Policy, adapter: Lora | None, seed: int = 1) -> tuple[Any, Any]:
    policy, reference = policy_and_reference(start, adapter, torch.float64, seed)
    return float64_throughout(policy), float64_throughout(reference)  # `Lora.attach` makes its matrices float32


@pytest.mark.parametrize("layout", ["padded", "shared"])
@pytest.mark.parametrize(
    ("num_batches", "gradient_checkpointing"),
    [(5, False), (3, False), (1, False), (3, True)],
)
def test_gradients_are_those_of_the_plain_formula(
    start: Policy,
    plain: tuple[Lora | None, dict[str, float], dict[str, Tensor]],
    layout: str,
    num_batches: int,
    gradient_checkpointing: bool,
) -> None:
    """In float64, where 1e-9 tells a wrong term from rounding; whatever the layout and the batches, and with checkpointing."""
    adapter, expected, expected_gradients = plain
    tokenizer = load_tokenizer(start)
    policy, reference = float64_models(start, adapter)
    passes = []
    policy.get_submodule(first_mlp(policy)).register_forward_pre_hook(lambda *_: passes.append(1))

    found, found_gradients = our_step(
        policy,
        reference,
        tokenize(tokenizer, PAIRS),
        tokenizer.pad_token_id,
        nll_weight=NLL_WEIGHT,
        layout=layout,
        tokens_per_batch={5: 1, 3: THREE_BATCHES[layout], 1: 10_000}[num_batches],
        adapter=adapter,
        gradient_checkpointing=gradient_checkpointing,
    )

    assert len(passes) == num_batches * (2 if gradient_checkpointing else 1), "checkpointing runs every layer twice"
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-9)
    assert all(gradient.dtype == torch.float64 for gradient in found_gradients.values())
    assert_same_gradients(found_gradients, expected_gradients, 1e-9)


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_saved_outputs_of_frozen_layers_change_no_gradient(
    either: Path, tmp_path: Path, gradient_checkpointing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Adapter on the upper of two layers: training from the lower one's kept output, bit for bit what it computes itself, whether
    its three batches share a file or have one each."""
    if gradient_checkpointing:
        monkeypatch.setattr("drift.score.frozen_outputs.FILE_BYTES", 1)
    start = policy_at(either)
    adapter = Lora(rank=4, scale=2.0, top_share=0.5, quantization="none")
    tokenizer = load_tokenizer(start)
    rows = tokenize(tokenizer, PAIRS)
    results = []
    for folder in (None, tmp_path / "frozen"):
        policy, reference = policy_and_reference(start, adapter, torch.float32)
        results.append(
            our_step(
                policy, reference, rows, tokenizer.pad_token_id, nll_weight=NLL_WEIGHT, layout="shared",
                tokens_per_batch=THREE_BATCHES["shared"], adapter=adapter,
                gradient_checkpointing=gradient_checkpointing, frozen=folder,
            )
        )  # fmt: skip
    assert len(list((tmp_path / "frozen").iterdir())) == (3 if gradient_checkpointing else 1)
    (computed, computed_gradients), (kept_metrics, kept_gradients) = results
    assert computed == kept_metrics
    assert all(torch.equal(kept_gradients[name], gradient) for name, gradient in computed_gradients.items())


def first_mlp(model: Any) -> str:
    return next(name for name, _ in model.named_modules() if name.endswith("layers.0.mlp"))


SEED = 6  # of a policy that makes replies to other prompts likelier: most do not, and a point of reference of 0 says little
LIKED = [True, False, True, True, False]  # of PAIRS' chosen replies, taken as single ones


def unpaired_step(policy: Any, reference: Any, tokenizer: Any, layout: str) -> tuple[dict[str, float], dict[str, Tensor], Any]:
    """Our KTO step on PAIRS' chosen replies, some of them disliked: metrics, gradients and the plan, in one batch."""
    examples = [replace(pair, replies=(replace(pair.replies[0], good=liked),)) for pair, liked in zip(PAIRS, LIKED, strict=True)]
    how = {"examples_per_step": len(examples), "tokens_per_batch": 10_000, "example_order": "shuffled", "seed": 0}
    planned = make_plan(tokenize(tokenizer, examples), layout=layout, longest_mismatched=4096, **how)
    module_of, objectives = (
        layout_module(planned.layout),
        {"kto": Kto(weight=1.0, beta=BETA, desirable_weight=1.0, undesirable_weight=1.5)},
    )
    train = replace(train_settings(len(examples), layout), adapter=None)
    module = PolicyModule(policy, train, objectives, module_of, 1, check_start=False, on_step=lambda row: None)
    module.fabric = lightning.Fabric(accelerator="cpu", devices=1)
    with torch.no_grad():
        sums = [module_of.reply_logprobs(reference, module_of.collate(rows, 0))[0].tolist() for rows in planned.passes]
    steps = Steps(module, planned, [0], Reference.of(planned, sums), None, tokenizer.pad_token_id)
    (step,) = list(steps)
    row = module._step_gradients(step["batches"], totals_of(step["batches"], module._kl(step["mismatched"])))
    return row, gradients(policy), planned


@pytest.mark.parametrize("layout", ["padded", "shared"])
def test_kto_equals_the_formula_in_float64(start: Policy, layout: str) -> None:
    """TokenSequence by row, in float64: the point of reference is the mean log-ratio of prompts with the reply before theirs."""
    models, tokenizer = float64_models(start, None, SEED), load_tokenizer(start)
    torch.set_default_dtype(torch.float64)  # of the reference's numbers
    try:
        found, found_gradients, planned = unpaired_step(*models, tokenizer, layout)
    finally:
        torch.set_default_dtype(torch.float32)
    expected, kl, expected_gradients = plain_kto(*float64_models(start, None, SEED), planned)
    assert kl > 0.01, "a point of reference of 0 would say little"
    assert (found["kl"], found["loss"]) == pytest.approx((kl, expected), rel=1e-9)
    assert_same_gradients(found_gradients, expected_gradients, 1e-9)


def plain_kto(policy: Any, reference: Any, planned: Any) -> tuple[float, float, dict[str, Tensor]]:
    """Loss, point of reference and gradients."""

    def ratio(row: Any) -> Tensor:
        with torch.no_grad():
            before = logprob(reference, row.prompt, row.reply)
        return logprob(policy, row.prompt, row.reply) - before

    rows = [example.sequences[0] for example in planned.examples]
    inside = [i for batch in planned.steps[0] for i in batch]
    others = [replace(rows[i], reply=rows[before].reply) for i, before in zip(inside, [inside[-1], *inside[:-1]], strict=True)]
    kl = max(0.0, float(sum(ratio(row) for row in others) / len(others)))
    losses = []
    for i in inside:
        if planned.examples[i].good[0]:
            losses.append(1 - torch.sigmoid(BETA * (ratio(rows[i]) - kl)))
        else:
            losses.append(1.5 * (1 - torch.sigmoid(BETA * (kl - ratio(rows[i])))))
    loss = torch.stack(losses).mean()
    loss.backward()
    return loss.item(), kl, gradients(policy)


def test_kto_and_its_kl_estimate_are_those_of_trl(start: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TRL is given our examples as one batch, in the order in which our plan has them: it turns the replies of a batch by one."""
    monkeypatch.setenv("CI", "1")
    tokenizer = load_tokenizer(start)
    policy, reference = policy_and_reference(start, None, torch.float32, SEED)
    theirs = copy.deepcopy(policy), copy.deepcopy(reference)
    found, found_gradients, planned = unpaired_step(policy, reference, tokenizer, "shared")
    inside = [planned.examples[i] for batch in planned.steps[0] for i in batch]
    config = KTOConfig(
        output_dir=str(tmp_path), report_to="none", use_cpu=True, bf16=False, gradient_checkpointing=False, max_length=None,
        beta=BETA, undesirable_weight=1.5, per_device_train_batch_size=len(inside), train_sampling_strategy="sequential",
    )  # fmt: skip
    texts = [{"prompt": "a", "completion": str(i), "label": example.good[0]} for i, example in enumerate(inside)]
    trainer = KTOTrainer(
        model=theirs[0], ref_model=theirs[1], args=config, train_dataset=Dataset.from_list(texts), processing_class=tokenizer
    )
    replies = [example.sequences[0].reply for example in inside]
    rows = [
        {"prompt_ids": example.prompt, "completion_ids": reply, "KL_completion_ids": other, "label": example.good[0]}
        for example, reply, other in zip(inside, replies, [replies[-1], *replies[:-1]], strict=True)
    ]
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, trainer.data_collator(rows))
    loss.backward()
    trainer.log({})
    assert found["kl"] == pytest.approx(trainer.state.log_history[-1]["kl"], rel=1e-5, abs=1e-5) and found["kl"] > 0.01
    assert found["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert_same_gradients(found_gradients, gradients(trainer.model), 1e-5)


SAID = ["No, a dark one.", "Thanks!", "That is wrong.", "Auf Deutsch?", "Louder."]  # after PAIRS' chosen replies


@pytest.mark.parametrize("layout", ["padded", "shared"])
def test_sdpo_equals_the_formula_in_float64(start: Policy, layout: str) -> None:
    """Token by token and reply by reply, which stand in several batches; one of the replies is an end of turn and nothing else."""
    examples = [
        replace(pair, replies=pair.replies[:1], hindsight=[*pair.prompt[:-1], {"role": "user", "content": said}])
        for pair, said in zip(PAIRS, SAID, strict=True)
    ]
    (policy, teacher), (plain, _) = (float64_models(start, None, SEED) for _ in range(2))
    tokenizer = load_tokenizer(start)
    how = {"examples_per_step": 5, "tokens_per_batch": 250, "example_order": "shuffled", "seed": 0, "longest_mismatched": None}
    planned = make_plan(tokenize(tokenizer, examples), layout=layout, **how)
    assert len(planned.batches) > 1
    with torch.no_grad():
        told = [[logprobs(teacher, one.prompt, one.reply).tolist() for one in example.hindsight] for example in planned.examples]
    reference = Reference(replies=[[0.0]] * 5, mismatched=[], hindsight=told)
    train = replace(train_settings(5, layout), adapter=None)
    objectives = {"sdpo": Sdpo(weight=1.0, ignored_tokens=2)}
    module = PolicyModule(policy, train, objectives, layout_module(planned.layout), 1, check_start=False, on_step=lambda row: None)
    module.fabric = lightning.Fabric(accelerator="cpu", devices=1)
    torch.set_default_dtype(torch.float64)  # of the teacher's numbers
    try:
        (step,) = list(Steps(module, planned, [0], reference, None, tokenizer.pad_token_id))
        found = module._step_gradients(step["batches"], totals_of(step["batches"], None))
        expected = plain_sdpo(plain, planned.examples, told)
    finally:
        torch.set_default_dtype(torch.float32)
    assert abs(found["advantage"]) > 0.001 and [found["loss"], found["advantage"]] == pytest.approx(expected, rel=1e-9)
    assert_same_gradients(gradients(policy), gradients(plain), 1e-9)


def plain_sdpo(policy: Any, examples: list[TokenisedExample], told: list[list[list[float]]]) -> list[float]:
    """Loss and mean advantage; leaves the gradients in the policy."""
    loss, mean = torch.zeros(()), 0.0
    for example, (teacher,) in zip(examples, told, strict=True):
        logps = logprobs(policy, example.prompt, example.sequences[0].reply)
        for logp, value in list(zip(logps, teacher, strict=True))[2:]:  # the first two tokens are left out
            advantage, counted = value - logp.item(), len(teacher) - 2
            loss = loss - advantage * logp / counted / len(examples)
            mean += advantage / counted / len(examples)
    loss.backward()
    return [loss.item(), mean]
