"""Samples on an OpenAI-compatible server: vLLM, SGLang, `transformers serve`.

The server has the start model's weights, under the name `endpoint.model`. A trained adapter is loaded into it by its directory,
under a name of its own, where the server can do that (`load_adapters`: vLLM); full weights can't be. The server renders the prompts
with its own copy of the chat template. So whether it has the right weights and template is for the same-policy check to say
(drift/engine/same_policy.py). Answers are kept one by one: a kill loses the requests under way, and no reply is paid for twice."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from drift.engine.adapters import load_adapter
from drift.engine.answer import Answer
from drift.engine.budget import Budget
from drift.engine.endpoint import Endpoint
from drift.errors import UserError
from drift.model.policy import Policy, load_tokenizer
from drift.randomness import Noise
from drift.records import Prompt, Reply
from drift.sampler.contracts import Scored, Trained
from drift.sampler.transformers import fitting_ids

SEEDS = 2**31  # some servers take no larger ones
ADVICE = "If a prompt is too long, lower sampler.max_prompt_tokens."
OWN = {"temperature", "top_p", "seed", "logprobs", "top_logprobs", "max_tokens", "max_completion_tokens", "chat_template_kwargs"}


@dataclass(frozen=True, kw_only=True)
class OpenAI:
    """`temperature` 0 is greedy. `group_size`: the number of replies in a group, which is stored as a whole. `max_prompt_tokens`:
    as counted here; longer prompts get no reply and are counted. `load_adapters`: the server is vLLM, which loads adapters while
    it runs. `endpoint.fields`: what a server needs besides OpenAI's fields."""

    temperature: float
    top_p: float
    max_new_tokens: int
    max_prompt_tokens: int
    group_size: int
    load_adapters: bool
    endpoint: Endpoint

    draws_at_once: ClassVar[Literal[True]] = True
    outlasts_runs: ClassVar[Literal[True]] = True
    caveats: ClassVar[Sequence[str]] = (
        "Sampled by a server: each request has its own seed, but the server need not heed it, and what it computes together "
        "changes the last digits, so a run that is begun anew may draw other replies.",
    )

    @property
    def budget(self) -> Budget:
        return self.endpoint.budget

    def check(self) -> None:
        if not (self.temperature >= 0 and 0 < self.top_p <= 1):
            raise UserError("sampler: expected temperature >= 0 and 0 < top_p <= 1.")
        if min(self.max_new_tokens, self.max_prompt_tokens, self.group_size) < 1:
            raise UserError("sampler: max_new_tokens, max_prompt_tokens and group_size must be at least 1.")
        if own := sorted(set(self.endpoint.fields) & OWN):
            raise UserError(
                f"sampler.endpoint.fields.{own[0]}: this field has a setting of its own, or is the program's. Leave it out."
            )

    def check_policy(self, trained: Trained) -> None:
        ways = "Use sampler=vllm or sampler=transformers"
        if trained != "adapter":
            weights = "full weights" if trained == "full" else "an adapter on weights that train=qlora quantises"
            raise UserError(f"sampler=openai: a server can't load {weights} while it runs. {ways}, or train=lora.")
        if not self.load_adapters:
            raise UserError(
                "sampler=openai: the server has the start model, and the trained policies are to be sampled from too. With a vLLM "
                f"server that loads adapters (docs/samplers.md), set sampler.load_adapters=true. {ways} otherwise."
            )

    def key(self) -> dict[str, Any]:
        """The settings that a reply depends on."""
        names = ("temperature", "top_p", "max_new_tokens", "max_prompt_tokens")
        return {name: getattr(self, name) for name in names} | {"endpoint": self.endpoint.key()}

    @contextmanager
    def open(self, policy: Policy) -> Iterator[Callable[..., list[Reply | None]]]:
        """Loads the adapter into the server, if the policy is one; yields `generate(prompts, noise, tick) -> list of replies`."""
        tokenizer, endpoint = load_tokenizer(policy), self._serving(policy, Path(self.endpoint.cache_dir))

        def generate(prompts: Sequence[Prompt], noise: Sequence[Noise], tick: Callable[[float], None]) -> list[Reply | None]:
            found = self._answers(endpoint, policy, tokenizer, prompts, noise, tick)
            return [found[i][0] if i in found else None for i in range(len(prompts))]

        yield generate

    def draw_scored(self, policy: Policy, prompts: Sequence[Prompt], noise: Sequence[Noise]) -> list[Scored | None]:
        """A reply to each prompt, with the server's log-probabilities, if it gives any. Nothing of it is kept, so that a server
        that has been set right is asked again."""
        with tempfile.TemporaryDirectory() as folder:
            tokenizer, endpoint = load_tokenizer(policy), self._serving(policy, Path(folder))
            found = self._answers(endpoint, policy, tokenizer, prompts, noise, lambda share: None)
        scored = {i: Scored(reply=reply, tokens=None, nats=answer.nats) for i, (reply, answer) in found.items()}
        return [scored.get(i) for i in range(len(prompts))]

    def _serving(self, policy: Policy, cache: Path) -> Endpoint:
        """The endpoint with the policy's name on it. Answers are kept by policy: a name says little about the weights."""
        own = replace(self.endpoint, cache_dir=str(cache / policy.fingerprint[:24]))
        if policy.is_adapter and self.load_adapters:
            own = replace(own, model=f"policy-{policy.fingerprint[:16]}", answers_as=None)
            load_adapter(own, own.model, policy.directory)
        object.__setattr__(own, "budget", self.endpoint.budget)  # one for all policies
        own.place(self.endpoint.setting)
        return own

    def _answers(
        self, endpoint: Endpoint, policy: Policy, tokenizer: Any, prompts: Sequence[Prompt], noise: Sequence[Noise],
        tick: Callable[[float], None],
    ) -> dict[int, tuple[Reply, Answer]]:  # fmt: skip
        """The reply to each prompt that can be sent, by its place."""
        known = [i for i, prompt in enumerate(prompts) if self._can_be_sent(tokenizer, prompt)]
        arguments = {name: value for name, value in policy.template.items() if name in tokenizer.chat_template}
        extra = {"chat_template_kwargs": arguments} if arguments else {}
        answers = endpoint.answers(
            [prompts[i] for i in known], lambda count: tick(count / len(known)), advice=ADVICE,
            seeds=[noise[i].as_seed() % SEEDS for i in known], temperature=self.temperature, top_p=self.top_p,
            max_tokens=self.max_new_tokens, logprobs=True, extra_body=extra,
        )  # fmt: skip
        if answers.count(None):
            raise UserError(
                f"{answers.count(None)} of {len(answers)} replies of {endpoint.url} have no text (thoughts in a field of their "
                "own, a filter, or a tool). Start the server without a reasoning or tool parser. The other replies are kept."
            )
        return {i: (_reply(tokenizer, prompts[i], one), one) for i, one in zip(known, answers, strict=True) if one is not None}

    def _can_be_sent(self, tokenizer: Any, prompt: Prompt) -> bool:
        """Not if it is too long, or a message contains control tokens, which a server would not take for text."""
        from drift.model.control import controls_of

        if fitting_ids(tokenizer, prompt, self.max_prompt_tokens) is None:
            return False
        return not controls_of(tokenizer).hide(prompt)[1]


def _reply(tokenizer: Any, prompt: Prompt, answer: Answer) -> Reply:
    """The reply, and its tokens as training will count them."""
    from drift.model.chat import NotAPrefix, reply_ids

    text, ended = answer.text.strip(), bool(answer.ended)
    try:
        count = len(reply_ids(tokenizer, prompt, text, ended=ended))
    except NotAPrefix:  # such a reply is dropped later, and counted
        count = len(answer.nats or text.split())
    return Reply(text=text, num_tokens=max(1, count), ended=ended)
