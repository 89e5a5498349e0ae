"""Chat templates and tokenizers of the model families, in the shape of the real ones: the same control words with the same flags, the same
way to put spaces before texts, a small vocabulary.

Templates of TRL are in `fixtures`, unchanged. Those that it does not have are written here from their public descriptions: SmolLM2
(ChatML), SmolLM3 (a system block with metadata, `/think`), Mistral ([INST], a space before each answer), Phi-4-mini (no line breaks),
Granite (role marks, a date).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

Kind = Literal["bytes", "bytes with space", "split bytes", "metaspace always", "metaspace first", "prepend", "unigram"]
"""byte-level BPE as GPT-2's, with a space before each stretch, or with the split of Llama 3 and Qwen; SentencePiece by a pre-tokenizer, or
by a normalizer as in Llama 2; Unigram as in T5."""

SENTENCES = (
    "system user assistant tool developer Which number is the largest? Answer with one number: 0 1 2 3 4 5 6 7 8 9 10 11 12.",
    "Repeat the word. Say yes or no. What comes next? The answer is the first word of the sentence.\n\nand now?\n board\n",
    '<think> </think> <tool_call> </tool_call> {"name": "move", "arguments": {}} analysis final commentary',
    "apple bread chair dog east fish green house",
)
LLAMA_SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
"""How Llama 3 and Qwen split a text before BPE (their tokenizer.json)."""
TEXT_TAGS = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
"""Added tokens that these families do not mark special."""

SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}<|im_start|>system\nYou are a helpful AI "
    "assistant named SmolLM, trained by Hugging Face<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SMOLLM3 = (
    "{%- set thinking = enable_thinking if enable_thinking is defined else true -%}"
    "<|im_start|>system\n## Metadata\n\nKnowledge Cutoff Date: June 2025\nToday Date: {{ strftime_now('%d %B %Y') }}\n"
    "Reasoning Mode: {{ '/think' if thinking else '/no_think' }}\n\n## Custom Instructions\n\n"
    "{%- if messages[0].role == 'system' %}{{ messages[0].content.rstrip() }}{% else %}You are a helpful AI assistant.{% endif %}"
    "<|im_end|>\n"
    "{%- for message in messages if message.role != 'system' %}"
    "{%- if message.role == 'user' %}{{ '<|im_start|>user\n' + message.content + '<|im_end|>\n' }}"
    "{%- elif message.role == 'assistant' %}"
    "{%- set said = message.content.split('</think>')[-1].lstrip('\n') if '</think>' in message.content else message.content %}"
    "{{ '<|im_start|>assistant\n' + ('' if thinking else '<think>\n\n</think>\n') + said + '<|im_end|>\n' }}"
    "{%- elif message.role == 'tool' %}{{ '<|im_start|>user\n' + message.content + '<|im_end|>\n' }}{%- endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' + ('' if thinking else '<think>\n\n</think>\n') }}{%- endif %}"
)
MISTRAL = (
    "{%- set system = messages[0]['content'] if messages[0]['role'] == 'system' else none %}"
    "{%- set turns = messages[1:] if system is not none else messages %}{{- bos_token }}"
    "{%- for message in turns %}"
    "{%- if message['role'] == 'user' %}{% if loop.first and system is not none %}{{- '[INST] ' + system + '\n\n' + message['content'] + "
    "'[/INST]' }}{% else %}{{- '[INST] ' + message['content'] + '[/INST]' }}{% endif %}"
    "{%- elif message['role'] == 'assistant' %}{{- ' ' + message['content'] + eos_token }}"
    "{%- else %}{{- raise_exception('Only user and assistant roles are supported') }}{%- endif %}{%- endfor %}"
)
MINISTRAL = (
    "{{- bos_token }}{%- for message in messages %}"
    "{%- if message['role'] == 'system' %}{{- '[SYSTEM_PROMPT]' + message['content'] + '[/SYSTEM_PROMPT]' }}"
    "{%- elif message['role'] == 'user' %}{{- '[INST]' + message['content'] + '[/INST]' }}"
    "{%- elif message['role'] == 'assistant' %}{{- message['content'] + eos_token }}{%- endif %}{%- endfor %}"
)
PHI4_MINI = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% else %}{{ eos_token }}{% endif %}"
)
GRANITE4 = (
    "{%- if messages[0]['role'] == 'system' %}{%- set system = messages[0]['content'] %}{%- set turns = messages[1:] %}"
    "{%- else %}{%- set system = 'Knowledge Cutoff Date: April 2024.\nToday\\'s Date: ' + strftime_now('%B %d, %Y') + "
    "'.\nYou are Granite, developed by IBM.' %}{%- set turns = messages %}{%- endif %}"
    "{{- '<|start_of_role|>system<|end_of_role|>' + system + '<|end_of_text|>\n' }}"
    "{%- for message in turns %}{{- '<|start_of_role|>' + message['role'] + '<|end_of_role|>' + message['content'] + '<|end_of_text|>\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|start_of_role|>assistant<|end_of_role|>' }}{%- endif %}"
)


@dataclass(frozen=True, kw_only=True)
class Family:
    """How a family's tokenizer is made. `template` is a text, or the name of one of TRL's."""

    template: str
    kind: Kind = "split bytes"
    end: str = "<|im_end|>"
    begin: str | None = None
    swallows: bool = False
    """Whether control tokens take the whitespace behind them."""


FAMILIES = {
    "smollm2": Family(template=SMOLLM2, kind="bytes"),
    "smollm3": Family(template=SMOLLM3),
    "llama-3.2": Family(template="llama3_2", end="<|eot_id|>", begin="<|begin_of_text|>"),
    "qwen2.5": Family(template="qwen2_5"),
    "qwen3": Family(template="qwen3"),
    "qwen3.5": Family(template="qwen3_5_think"),
    "gemma-3": Family(template="gemma3", kind="metaspace first", end="<end_of_turn>", begin="<bos>"),
    "mistral": Family(template=MISTRAL, kind="prepend", end="</s>", begin="<s>"),
    "ministral": Family(template=MINISTRAL, end="</s>", begin="<s>"),
    "phi-4-mini": Family(template=PHI4_MINI, end="<|end|>", swallows=True),
    "granite-4": Family(template=GRANITE4, end="<|end_of_text|>"),
    "gpt-oss": Family(template="gptoss", end="<|return|>"),
}


def trl_templates() -> dict[str, str]:
    """The chat templates in TRL's wheel, without those for its own training."""
    folder = Path(__file__).parent / "fixtures" / "trl-1.16.0"
    return {file.stem: file.read_text() for file in sorted(folder.glob("*.jinja"))}


def control_words(template: str) -> list[str]:
    """What looks like a control word in a template."""
    words = re.findall(r"<\|[\w.]+\|>|<｜[\w▁]+｜>|<\|\w+>|<\w+\|>|</?[a-z_]+>|\[/?[A-Z_]+\]|\[gMASK\]|<\|[A-Z_]+\|>", template)
    return list(dict.fromkeys(word for word in words if word not in {"<tools>", "</tools>"}))


@cache
def family_tokenizer(name: str) -> PreTrainedTokenizerFast:
    """The tokenizer of one of `FAMILIES`, with its template."""
    family = FAMILIES[name]
    template = family.template if "{" in family.template else trl_templates()[family.template]
    return tokenizer_for(template, kind=family.kind, end=family.end, begin=family.begin, swallows=family.swallows)


def tokenizer_for(
    template: str, *, kind: Kind = "split bytes", end: str = "<|im_end|>", begin: str | None = None, swallows: bool = False
) -> PreTrainedTokenizerFast:
    """A tokenizer that has the control words of a template."""
    words = [*control_words(template), *TEXT_TAGS, "<|system|>", "<|user|>", "<|assistant|>"]
    special = [word for word in dict.fromkeys(["<|endoftext|>", *([begin] if begin else []), end, *words]) if word not in TEXT_TAGS]
    tokenizer = _backend(kind, special)
    tokenizer.add_special_tokens([AddedToken(word, special=True, normalized=False, rstrip=swallows) for word in special])
    tokenizer.add_tokens([AddedToken(word, special=False, normalized=False) for word in TEXT_TAGS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=end, bos_token=begin, pad_token="<|endoftext|>", chat_template=template
    )


def _backend(kind: Kind, special: Sequence[str]) -> Tokenizer:
    pieces = [*"▁", *map(chr, range(32, 127)), "\n"]
    if kind == "unigram":
        tokenizer = Tokenizer(models.Unigram())
        trainer: object = trainers.UnigramTrainer(
            vocab_size=400, special_tokens=["<unk>", *special], unk_token="<unk>", initial_alphabet=pieces, show_progress=False
        )
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
        tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    elif kind.startswith(("metaspace", "prepend")):
        tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
        bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
        trainer = trainers.BpeTrainer(
            vocab_size=700, special_tokens=["<unk>", *special, *bytes_], initial_alphabet=pieces, show_progress=False
        )
        if kind == "prepend":
            tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        else:
            tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always" if kind.endswith("always") else "first", split=False)
        tokenizer.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(content=" ", left=1)]
        )
    else:
        tokenizer = Tokenizer(models.BPE())
        level = pre_tokenizers.ByteLevel(add_prefix_space=kind == "bytes with space", use_regex=kind != "split bytes")
        split = pre_tokenizers.Split(Regex(LLAMA_SPLIT), behavior="isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, level]) if kind == "split bytes" else level
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=500 + len(special),
            special_tokens=list(special),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    document = json.loads(tokenizer.to_str())
    document["added_tokens"] = [token for token in document["added_tokens"] if not token["content"].startswith("<0x")]
    return Tokenizer.from_str(json.dumps(document))
