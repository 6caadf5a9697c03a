"""The start model of a run, checked by its files alone: before any weight is loaded."""

from typing import Any

from drift.errors import UserError
from drift.evaluation.stage import longest_sampled
from drift.identity import code
from drift.model.architecture import check_architecture
from drift.model.chat import check_template
from drift.model.policy import Policy, load_tokenizer, policy_at
from drift.model.remembered import passed
from drift.model.weights import check_weights
from drift.score.plan import layout_module


def open_start(run: Any) -> tuple[Policy, Any]:
    """A run's start model and its tokenizer; refuses one that the run can't use."""
    quantization = run.train.adapter.quantization if run.train.adapter else "none"
    directory = run.model.directory()
    check_weights(directory)
    start = policy_at(directory, quantization, run.model.template)
    tokenizer = load_tokenizer(start)
    check_model(run, start, tokenizer)
    return start, tokenizer


def check_model(run: Any, start: Policy, tokenizer: Any) -> None:
    from drift.score.attention import check_compiler

    if start.is_adapter and run.train.adapter is None:
        raise UserError(f"model.path={start.directory} is an adapter, which train=full can't continue from. Use train=lora.")
    check_template(tokenizer, start.tokenizer, system=run.data.uses_policy and run.data.system is not None)
    longest = max(run.train.max_tokens, longest_sampled(run.sampler, run.evaluation.values()))
    layout = layout_module(run.train.layout)
    if run.train.layout == "shared":
        check_compiler()  # this machine's: what is remembered below holds for any

    def check() -> None:
        check_architecture(start.base, tokenizer, longest=longest)
        layout.check_model(start.base, longest)

    passed(
        check_model,
        [start.base, start.tokenizer],
        [longest, run.train.layout, code(check_architecture), code(layout.check_model)],
        check,
    )


def check_sampled(policy: Policy, longest: int) -> None:
    """Refuses a policy that can't be sampled from with up to `longest` tokens, by its files alone."""
    check_weights(policy.base)
    tokenizer = load_tokenizer(policy)
    check_template(tokenizer, policy.tokenizer, system=False)
    check_architecture(policy.base, tokenizer, longest=longest)
