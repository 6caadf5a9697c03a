"""Chat templates written by hand in the shapes of well-known models: how each opens and ends a turn, and what else it writes.

`tokens`: the control tokens that it is written in, without <think>, which models have as ordinary tokens.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """`end`: what ends a reply. `system`: whether it takes a system message. `refused`: part of the reason why it can't be used."""

    template: str
    tokens: tuple[str, ...] = ("<|im_start|>", "<|im_end|>")
    end: str = "<|im_end|>"
    system: bool = True
    refused: str | None = None


LOOP = "{% for m in messages %}"
ASK = "{% if add_generation_prompt %}"
IM = "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
THOUGHT = "<think>\n\n</think>\n\n"
HEADER = "{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content | trim + '<|eot_id|>' }}"

QWEN25 = (
    "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\nYou are Q.<|im_end|>\n' }}{% endif %}"
    f"{LOOP}{IM}{{% endfor %}}{ASK}{{{{ '<|im_start|>assistant\n' }}}}{{% endif %}}"
)
# Thoughts before the last reply alone; a reply's own are cut out of its text.
QWEN3 = (
    f"{LOOP}{{% if m.role == 'assistant' %}}{{% set said = m.content.split('</think>')[-1].lstrip('\n') %}}"
    f"{{% set thought = {THOUGHT!r} if loop.last else '' %}}"
    "{{ '<|im_start|>assistant\n' + thought + said + '<|im_end|>\n' }}{% else %}" + IM + "{% endif %}{% endfor %}"
    f"{ASK}{{{{ '<|im_start|>assistant\n' }}}}{{% if enable_thinking is defined and enable_thinking is false %}}"
    f"{{{{ {THOUGHT!r} }}}}{{% endif %}}{{% endif %}}"
)
# Thinks unless told otherwise, and leaves the thought open.
OPEN = "{{ '<|im_start|>assistant\n' }}"
QWEN35 = QWEN3.replace(OPEN + "{% if", OPEN + "{% if not enable_thinking is defined or enable_thinking %}{{ '<think>\n' }}{% elif")
LLAMA32 = (
    "{{ bos_token }}{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    "{% if messages[0].role == 'system' %}{% set system = messages[0].content | trim %}{% set messages = messages[1:] %}"
    "{% else %}{% set system = '' %}{% endif %}"
    "{{ '<|start_header_id|>system<|end_header_id|>\n\nToday Date: ' + date_string + '\n\n' + system + '<|eot_id|>' }}"
    f"{LOOP}{HEADER}{{% endfor %}}{ASK}{{{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}}}{{% endif %}}"
)
GEMMA3 = (
    "{{ bos_token }}{% set first = '' %}{% if messages[0].role == 'system' %}{% set first = messages[0].content + '\n\n' %}"
    "{% set messages = messages[1:] %}{% endif %}"
    f"{LOOP}{{{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' }}}}"
    "{{ (first if loop.first else '') + m.content | trim + '<end_of_turn>\n' }}{% endfor %}"
    f"{ASK}{{{{ '<start_of_turn>model\n' }}}}{{% endif %}}"
)
MISTRAL02 = (
    f"{{{{ bos_token }}}}{LOOP}{{% if m.role == 'user' %}}{{{{ '[INST] ' + m.content + ' [/INST]' }}}}"
    "{% elif m.role == 'assistant' %}{{ ' ' + m.content + eos_token }}{% else %}{{ raise_exception('Only user and assistant!') }}"
    "{% endif %}{% endfor %}"
)
# The system message moves into the last user turn, and away when a reply follows.
MISTRAL03 = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{% set system = messages[0].content %}"
    "{% set messages = messages[1:] %}{% endif %}"
    f"{LOOP}{{% if m.role == 'user' %}}{{{{ '[INST]' }}}}"
    "{% if loop.last and system is defined %}{{ system + '\n\n' }}{% endif %}"
    "{{ m.content + '[/INST]' }}{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
)
PHI4 = (
    f"{LOOP}{{{{ '<|' + m.role + '|>' + m.content + '<|end|>' }}}}{{% endfor %}}"
    f"{ASK}{{{{ '<|assistant|>' }}}}{{% else %}}{{{{ eos_token }}}}{{% endif %}}"
)
COMMAND = (
    f"{{{{ bos_token }}}}{LOOP}{{% set role = 'CHATBOT' if m.role == 'assistant' else m.role | upper %}}"
    "{{ '<|START_OF_TURN_TOKEN|><|' + role + '_TOKEN|>' + m.content + '<|END_OF_TURN_TOKEN|>' }}"
    f"{{% endfor %}}{ASK}{{{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}}}{{% endif %}}"
)
GPT_OSS = (
    f"{LOOP}{{% if m.role == 'assistant' %}}{{{{ '<|start|>assistant<|channel|>final<|message|>' + m.content + "
    "('<|return|>' if loop.last else '<|end|>') }}{% else %}{{ '<|start|>' + m.role + '<|message|>' + m.content + '<|end|>' }}"
    f"{{% endif %}}{{% endfor %}}{ASK}{{{{ '<|start|>assistant' }}}}{{% endif %}}"
)
PARTS = (
    f"{LOOP}{{{{ '<|im_start|>' + m.role + '\n' }}}}{{% for part in m.content %}}{{{{ part.text }}}}{{% endfor %}}"
    f"{{{{ '<|im_end|>\n' }}}}{{% endfor %}}{ASK}{{{{ '<|im_start|>assistant\n' }}}}{{% endif %}}"
)
LLAMA = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
ROLES = tuple(f"<|{role}|>" for role in ("system", "user", "assistant", "end", "endoftext"))
TURN = ("<BOS>", "<|START_OF_TURN_TOKEN|>", "<|SYSTEM_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>", "<|END_OF_TURN_TOKEN|>")

SHAPES = {
    "qwen2.5": Shape(QWEN25),
    "qwen3": Shape(QWEN3),
    "qwen3.5": Shape(QWEN35),
    "llama3.2": Shape(LLAMA32, LLAMA, "<|eot_id|>"),
    "gemma3": Shape(GEMMA3, ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"), "<end_of_turn>"),
    "mistral0.2": Shape(MISTRAL02, ("<s>", "</s>"), "</s>", system=False),
    "mistral0.3": Shape(MISTRAL03, ("<s>", "</s>", "[INST]", "[/INST]"), "</s>", system=False),
    "phi4-mini": Shape(PHI4, ROLES, "<|end|>"),
    "command-r": Shape(COMMAND, TURN, "<|END_OF_TURN_TOKEN|>"),
    "gpt-oss": Shape(
        GPT_OSS, tuple(f"<|{name}|>" for name in ("start", "end", "message", "channel", "return")), "<|return|>",
        refused="writes '<|channel|>final<|message|>",
    ),
    "without generation prompt": Shape(f"{LOOP}{IM}{{% endfor %}}", refused="writes '<|im_start|>assistant"),
    "list of parts": Shape(PARTS, refused="leaves out or rewrites the user's message"),
    "open thought": Shape(QWEN35.replace("enable_thinking", "other"), refused=r"writes '\n</think>"),
    "plain text": Shape(
        f"{LOOP}{{{{ m.role + ': ' + m.content + '\n' }}}}{{% endfor %}}{ASK}{{{{ 'assistant: ' }}}}{{% endif %}}",
        refused="without a control token",
    ),
    "broken": Shape("{% for m in messages %}{{ m.content }", refused="fails with TemplateSyntaxError"),
}  # fmt: skip
