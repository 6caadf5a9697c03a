"""Samples in this process, with a Hugging Face model and the decoding loop of `decode.py`."""

from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from drift.batches import cut
from drift.errors import UserError, memory_advice
from drift.finite import broken_weights
from drift.model import precision
from drift.model.policy import Policy
from drift.randomness import Noise
from drift.records import Prompt, Reply
from drift.sampler.contracts import Scored


@dataclass(frozen=True, kw_only=True)
class Transformers:
    """`temperature` 0 is greedy; `top_p` 1 samples from the whole vocabulary. `group_size`: the number of replies in a group, which
    is stored as a whole; inside it, prompts of similar length are computed together, as many as `tokens_per_batch` (prompts and
    new tokens) allows. `max_prompt_tokens`: longer prompts get no reply and are counted."""

    temperature: float
    top_p: float
    max_new_tokens: int
    max_prompt_tokens: int
    group_size: int
    tokens_per_batch: int
    precision: precision.Precision

    caveats: ClassVar[Sequence[str]] = ()

    def check(self) -> None:
        if not (self.temperature >= 0 and 0 < self.top_p <= 1):
            raise UserError("sampler: expected temperature >= 0 and 0 < top_p <= 1.")
        if min(self.max_new_tokens, self.max_prompt_tokens, self.group_size, self.tokens_per_batch) < 1:
            raise UserError("sampler: max_new_tokens, max_prompt_tokens, group_size and tokens_per_batch must be at least 1.")

    def key(self) -> dict[str, Any]:
        """The settings that a reply depends on (`identity` adds the class): in bfloat16 also how many are computed together."""
        dtype = precision.resolve(self.precision)
        return {
            "together": [self.group_size, self.tokens_per_batch] if dtype == "bfloat16" else None,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_new_tokens": self.max_new_tokens,
            "max_prompt_tokens": self.max_prompt_tokens,
            "precision": dtype,
        }

    @contextmanager
    def _loaded(self, policy: Policy):
        """Loads the policy; yields a list with the model, its tokenizer, and the ids that end a reply; frees it."""
        import torch

        from drift.model import policy as policies
        from drift.sampler.cpu import skinny

        tokenizer = policies.load_tokenizer(policy)
        loaded = [policies.load_model(policy, getattr(torch, precision.resolve(self.precision)), merge=True)]
        skinny.speed_up(loaded[0])
        try:
            yield loaded, tokenizer, stop_ids(loaded[0], tokenizer)
        finally:
            loaded.clear()
            policies.free()

    @contextmanager
    def open(self, policy: Policy):
        """Loads the policy; yields `generate(prompts, noise, tick) -> list of replies`; frees it. A prompt that is too long, or
        that the chat template can't render, gets None for a reply. `tick(share)` is called as the work goes on."""
        with self._loaded(policy) as (loaded, tokenizer, stops):
            yield partial(self._generate, policy, loaded, tokenizer, stops)

    def draw_scored(self, policy: Policy, prompts: Sequence[Prompt], noise: Sequence[Noise]) -> list[Scored | None]:
        """A reply to each prompt, with the log-probabilities that the decoding loop drew it from."""
        with self._loaded(policy) as (loaded, tokenizer, stops), finite_advice(policy):
            ids = {
                i: found
                for i, prompt in enumerate(prompts)
                if (found := fitting_ids(tokenizer, prompt, self.max_prompt_tokens)) is not None
            }
            uniforms, nats = [noise[i].uniforms(self.max_new_tokens) for i in ids], list[list[float]]()
            sampled = self._sample(loaded[0], tokenizer, stops, list(ids.values()), uniforms, lambda: None, nats) if ids else []
            found = {
                i: Scored(reply=reply_of(tokenizer, stops, tokens), tokens=tokens, nats=own)
                for i, tokens, own in zip(ids, sampled, nats, strict=True)
            }
            return [found.get(i) for i in range(len(prompts))]

    def _generate(
        self,
        policy: Policy,
        loaded: list[Any],
        tokenizer: Any,
        stops: set[int],
        prompts: Sequence[Prompt],
        noise: Sequence[Noise],
        tick: Callable[[float], None],
    ) -> list[Reply | None]:
        ids = {
            i: found
            for i, prompt in enumerate(prompts)
            if (found := fitting_ids(tokenizer, prompt, self.max_prompt_tokens)) is not None
        }
        by_length = sorted(ids, key=lambda i: (len(ids[i]), ids[i]))  # equal prompts side by side
        sizes = [len(ids[i]) + self.max_new_tokens for i in by_length]
        replies: list[Reply | None] = [None] * len(prompts)
        padded = loaded[0].device.type != "cpu"  # a GPU's cache has a row of the longest prompt's length for every reply
        for batch in cut(by_length, sizes, self.tokens_per_batch, padded=padded):
            on_token = partial(tick, len(batch) / len(by_length) / self.max_new_tokens)
            uniforms = [noise[i].uniforms(self.max_new_tokens) for i in batch]
            with memory_advice("sampler.tokens_per_batch", self.tokens_per_batch), finite_advice(policy):
                sampled = self._sample(loaded[0], tokenizer, stops, [ids[i] for i in batch], uniforms, on_token, None)
            for i, tokens in zip(batch, sampled, strict=True):
                replies[i] = reply_of(tokenizer, stops, tokens)
        return replies

    def _sample(
        self,
        model: Any,
        tokenizer: Any,
        stops: set[int],
        prompts: list[list[int]],
        uniforms: list[Any],
        on_token: Callable[[], None],
        nats: list[list[float]] | None,
    ) -> list[list[int]]:
        from drift.sampler.decode import SampleRequest, sample

        return sample(
            model,
            [SampleRequest(prompt=ids, uniforms=numbers) for ids, numbers in zip(prompts, uniforms, strict=True)],
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            stop_ids=stops,
            on_token=on_token,
            nats=nats,
            pad_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else min(stops),
        )


def fitting_ids(tokenizer: Any, prompt: Prompt, most: int) -> list[int] | None:
    """Token ids of the prompt. None: it has more than `most`, or a message in it looks like the template's own text."""
    from drift.model.chat import NotAPrefix, prompt_ids

    try:
        ids = prompt_ids(tokenizer, prompt)
    except NotAPrefix:
        return None
    return ids if len(ids) <= most else None


def reply_of(tokenizer: Any, stops: set[int], tokens: list[int]) -> Reply:
    """The reply that the sampled tokens are."""
    ended = tokens[-1] in stops
    text = tokenizer.decode(tokens[:-1] if ended else tokens, skip_special_tokens=True)
    return Reply(text=text.strip().removesuffix("\ufffd"), num_tokens=len(tokens), ended=ended)


@contextmanager
def finite_advice(policy: Policy):
    """Names the policy whose logits are not finite, and what to do."""
    try:
        yield
    except FloatingPointError as error:
        raise UserError(f"Sampling: {error}. {broken_weights(policy.directory, 'sampler.precision')}") from error


def stop_ids(model: Any, tokenizer: Any) -> set[int]:
    """The id that the chat template writes after a reply, and the end-of-turn ids of the generation config and the tokenizer."""
    return _stops(model.generation_config, tokenizer)


def stops_of(policy: Policy, tokenizer: Any) -> set[int]:
    """The same from a policy's files, without its weights."""
    from transformers import AutoConfig, GenerationConfig

    try:
        generation = GenerationConfig.from_pretrained(policy.base, local_files_only=True)
    except OSError:  # it has none
        config = AutoConfig.from_pretrained(policy.base, local_files_only=True, trust_remote_code=False)
        generation = GenerationConfig.from_model_config(config)
    return _stops(generation, tokenizer)


def _stops(generation: Any, tokenizer: Any) -> set[int]:
    from drift.model.chat import end_of_turn

    configured = generation.eos_token_id
    ids = configured if isinstance(configured, list) else [configured]
    return {i for i in [end_of_turn(tokenizer), *ids, tokenizer.eos_token_id] if i is not None}
