"""The model that real engines serve in tests: a folder with a shape and a tokenizer, and no weights.

The shape is tests/data/tiny_qwen2; the tokenizer knows bytes alone. With `--load-format dummy` vLLM
draws the weights.
"""

import json
import shutil
from pathlib import Path

SHAPE = Path(__file__).resolve().parents[1] / "data" / "tiny_qwen2" / "config.json"
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def byte_characters() -> list[str]:
    """The character that stands for each byte in byte-level tokenizers, by value.

    Printable bytes of Latin-1 stand for themselves, the others for characters from U+0100 on.
    """
    themselves = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in themselves else next(others)) for byte in range(256)]


def tokenizer() -> dict:
    """The content of a tokenizer.json: special tokens first, then a token a byte, no merges."""
    special = [
        {"id": number, "content": text, "special": True, "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False}
        for number, text in enumerate(SPECIAL)
    ]  # fmt: skip
    tokens = {text: number for number, text in enumerate((*SPECIAL, *byte_characters()))}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "added_tokens": special,
        "pre_tokenizer": level,
        "decoder": level,
        "model": {"type": "BPE", "vocab": tokens, "merges": []},
    }


def write_tiny_model(folder: Path) -> Path:
    """Write the model into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(SHAPE, folder / "config.json")
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>",
        "chat_template": CHAT, "model_max_length": 32768,
    }  # fmt: skip
    for name, content in (("tokenizer.json", tokenizer()), ("tokenizer_config.json", settings)):
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    return folder
