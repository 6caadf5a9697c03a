"""A random-weight Llama with a byte-level tokenizer and ChatML template, for tests: nothing is downloaded.

It writes gibberish, but every stage of the program runs on it in seconds.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drift.model.cached import cache, made_once
from drift.model.template import check_arguments
from drift.records import digest

CHATML = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a tiny test model.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@dataclass(frozen=True, kw_only=True)
class Tiny:
    """The sizes of the random model. `weights_seed`: determines its weights. `template`: arguments for every rendering."""

    layers: int
    hidden_size: int
    weights_seed: int
    cache_dir: str | None
    template: dict[str, Any]

    def check(self) -> None:
        check_arguments(self.template)

    def directory(self) -> Path:
        name = digest([1, self.layers, self.hidden_size, self.weights_seed])[:12]
        return made_once(cache(self.cache_dir) / "models" / f"tiny-{name}", lambda scratch: self._write(scratch / "model"))

    def _write(self, output: Path) -> None:
        import torch
        from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
        from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        inner = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(alphabet)}, merges=[]))
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        inner.decoder = decoders.ByteLevel()
        inner.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in ("<|im_start|>", "<|im_end|>")])
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|im_end|>", pad_token="<|im_end|>")
        tokenizer.chat_template = CHATML
        end = inner.token_to_id("<|im_end|>")
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=self.hidden_size,
            intermediate_size=2 * self.hidden_size,
            num_hidden_layers=self.layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=4096,
            initializer_range=0.2,  # wide, so that replies differ
            eos_token_id=end,
            pad_token_id=end,
            bos_token_id=None,
            tie_word_embeddings=True,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.weights_seed)
            model = LlamaForCausalLM(config)
        model.save_pretrained(output)
        tokenizer.save_pretrained(output)
