"""Model shapes, and the bytes and operations that follow from them; the names of adapters to a model."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import InputError, suggestion
from harness.messages import message
from harness.simulator.flag_names import json_or_same


@dataclass(frozen=True, slots=True)
class ModelShape:
    """A decoder's shape in the terms of a Hugging Face config.json.

    `expert_width` is the inner width of one routed expert; `dense_layers` come before the
    layers with experts. With `kv_rank` (multi-head latent attention) the cache holds one vector
    of kv_rank + rope_dim a token and layer, whatever the number of heads.
    """

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    inner: int
    vocab: int
    max_position: int
    tied: bool = False
    experts: int = 0
    experts_per_token: int = 0
    shared_experts: int = 0
    expert_width: int = 0
    dense_layers: int = 0
    kv_rank: int = 0
    query_rank: int = 0
    rope_dim: int = 0
    value_dim: int = 0

    @property
    def attention_parameters(self) -> int:
        """Weights of the projections of one attention layer."""
        if not self.kv_rank:
            return self.hidden * self.head_dim * 2 * (self.heads + self.kv_heads)
        key_dim = self.head_dim + self.rope_dim
        query = self.heads * key_dim
        queries = self.query_rank * (self.hidden + query) if self.query_rank else self.hidden * query
        keys = self.hidden * (self.kv_rank + self.rope_dim)
        expanded = self.kv_rank * self.heads * (self.head_dim + self.value_dim)
        return queries + keys + expanded + self.heads * self.value_dim * self.hidden

    @property
    def expert_parameters(self) -> int:
        """Weights of one routed expert."""
        return 3 * self.hidden * self.expert_width

    @property
    def embedding_parameters(self) -> int:
        """Weights of one vocabulary matrix: the embedding, or the output head."""
        return self.vocab * self.hidden

    @property
    def expert_layers(self) -> int:
        """Layers with routed experts."""
        return self.layers - self.dense_layers if self.experts else 0

    @property
    def dense_parameters(self) -> int:
        """Weights that every token passes, embedding and output head left out."""
        shared = self.shared_experts * self.expert_parameters + self.hidden * self.experts
        plain = (self.layers - self.expert_layers) * 3 * self.hidden * self.inner
        return self.layers * self.attention_parameters + plain + self.expert_layers * shared

    @property
    def parameters(self) -> int:
        """All weights."""
        routed = self.expert_layers * self.experts * self.expert_parameters
        return self.dense_parameters + routed + self.embedding_parameters * (1 if self.tied else 2)

    @property
    def active_parameters(self) -> int:
        """Weights that one token passes, embedding and output head left out."""
        return self.dense_parameters + self.expert_layers * self.experts_per_token * self.expert_parameters

    def kv_bytes(self, tensor_parallel_size: int, element_bytes: int = 2) -> int:
        """Bytes that one token takes in the cache of one device."""
        if self.kv_rank:
            return self.layers * (self.kv_rank + self.rope_dim) * element_bytes
        heads = max(1, self.kv_heads // tensor_parallel_size)
        return self.layers * heads * 2 * self.head_dim * element_bytes


# name, layers, hidden, heads, kv_heads, head_dim, inner, vocab, max_position
MODELS: Mapping[str, ModelShape] = {
    model.name: model
    for model in (
        ModelShape("Qwen2.5-0.5B", 24, 896, 14, 2, 64, 4864, 151936, 32768, tied=True),
        ModelShape("Qwen2.5-7B", 28, 3584, 28, 4, 128, 18944, 152064, 32768),
        ModelShape("Qwen2.5-14B", 48, 5120, 40, 8, 128, 13824, 152064, 32768),
        ModelShape("Qwen2.5-32B", 64, 5120, 40, 8, 128, 27648, 152064, 32768),
        ModelShape("Qwen2.5-72B", 80, 8192, 64, 8, 128, 29568, 152064, 32768),
        ModelShape("Qwen3-0.6B", 28, 1024, 16, 8, 128, 3072, 151936, 40960, tied=True),
        ModelShape("Qwen3-8B", 36, 4096, 32, 8, 128, 12288, 151936, 40960),
        ModelShape("Qwen3-14B", 40, 5120, 40, 8, 128, 17408, 151936, 40960),
        ModelShape("Qwen3-32B", 64, 5120, 64, 8, 128, 25600, 151936, 40960),
        ModelShape("QwQ-32B", 64, 5120, 40, 8, 128, 27648, 152064, 40960),
        ModelShape(
            "Qwen3-30B-A3B", 48, 2048, 32, 4, 128, 6144, 151936, 40960,
            experts=128, experts_per_token=8, expert_width=768,
        ),
        ModelShape("Llama-3-8B", 32, 4096, 32, 8, 128, 14336, 128256, 8192),
        ModelShape(
            "DeepSeek-V2-Lite", 27, 2048, 16, 16, 128, 10944, 102400, 163840,
            experts=64, experts_per_token=6, shared_experts=2, expert_width=1408, dense_layers=1,
            kv_rank=512, rope_dim=64, value_dim=128,
        ),
        ModelShape(
            "DeepSeek-V3", 61, 7168, 128, 128, 128, 18432, 129280, 163840,
            experts=256, experts_per_token=8, shared_experts=1, expert_width=2048, dense_layers=3,
            kv_rank=512, query_rank=1536, rope_dim=64, value_dim=128,
        ),
    )
}  # fmt: skip
_SAME_SHAPE = {
    "deepseek-r1": "DeepSeek-V3",
    "deepseek-v3.1": "DeepSeek-V3",
    "meta-llama-3-8b": "Llama-3-8B",
    "llama-3.1-8b": "Llama-3-8B",
    "qwen2.5-coder-7b": "Qwen2.5-7B",
    "qwen2.5-coder-32b": "Qwen2.5-32B",
    "qwen3-embedding-0.6b": "Qwen3-0.6B",
    "qwen3-reranker-0.6b": "Qwen3-0.6B",
}
DEFAULT_MODEL = "Qwen/Qwen2.5-7B-Instruct"
_SUFFIX = re.compile(r"-(instruct|chat|base|hf|bf16|fp16|w8a8\w*|w4a8\w*|int8|awq|gptq|[0-9]{4}|ascend)$")


def model_named(name: str) -> ModelShape:
    """The shape of a model known by name, or described by a config.json or a folder that holds one.

    Raises:
        InputError: neither a known name nor a readable config.json.
    """
    path = Path(name)
    if path.suffix == ".json" or (path / "config.json").is_file():
        return _model_at(path if path.suffix == ".json" else path / "config.json")
    folded = name.rsplit("/", 1)[-1].lower()
    while _SUFFIX.search(folded):
        folded = _SUFFIX.sub("", folded)
    wanted = _SAME_SHAPE.get(folded, folded)
    for known, model in MODELS.items():
        if known.lower() == wanted.lower():
            return model
    raise InputError(message("simulator.unknown_model", model=name, suggestion=suggestion(folded, MODELS)))


def _model_at(path: Path) -> ModelShape:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        return model_from_config(path.parent.name or path.stem, config)
    except (OSError, ValueError) as error:
        raise InputError(message("simulator.model_unreadable", path=str(path), reason=str(error))) from error
    except KeyError as error:
        raise InputError(message("simulator.model_key_missing", path=str(path), key=str(error.args[0]))) from error


def model_from_config(name: str, config: Mapping[str, Any]) -> ModelShape:
    """The shape that a Hugging Face config.json describes.

    Raises:
        KeyError: a key without which there is no shape is missing.
    """
    heads = config["num_attention_heads"]
    experts = config.get("n_routed_experts") or config.get("num_experts") or config.get("num_local_experts") or 0
    return ModelShape(
        name=name,
        layers=config["num_hidden_layers"],
        hidden=config["hidden_size"],
        heads=heads,
        kv_heads=config.get("num_key_value_heads", heads),
        head_dim=config.get("qk_nope_head_dim") or config.get("head_dim") or config["hidden_size"] // heads,
        inner=config["intermediate_size"],
        vocab=config["vocab_size"],
        max_position=config.get("max_position_embeddings", 32768),
        tied=bool(config.get("tie_word_embeddings")),
        experts=experts,
        experts_per_token=config.get("num_experts_per_tok", 0),
        shared_experts=config.get("n_shared_experts") or 0,
        expert_width=config.get("moe_intermediate_size") or (config["intermediate_size"] if experts else 0),
        dense_layers=config.get("first_k_dense_replace", 0),
        kv_rank=config.get("kv_lora_rank") or 0,
        query_rank=config.get("q_lora_rank") or 0,
        rope_dim=config.get("qk_rope_head_dim") or 0,
        value_dim=config.get("v_head_dim") or 0,
    )


def lora_modules(value: Any) -> tuple[str, ...]:
    """The adapters of --lora-modules: name=path, or JSON objects, in a list or between blanks.

    Raises:
        ValueError: where one has no name.
    """
    items = value if isinstance(value, list | tuple) else str(value).split()
    modules = tuple(item if isinstance(item, str) else json.dumps(item) for item in items)
    for module in modules:
        if not adapter_name(module):
            raise ValueError(module)
    return modules


def served_names(value: Any) -> str | tuple[str, ...]:
    """The names of --served-model-name: one as text; several, of a list or its JSON, as a tuple without repeats.

    Raises:
        ValueError: where one is no text, or there is none.
    """
    given = json_or_same(value)
    if not isinstance(given, list | tuple):
        return str(given)
    if not given or not all(isinstance(name, str) and name for name in given):
        raise ValueError(given)
    names = tuple(dict.fromkeys(given))
    return names[0] if len(names) == 1 else names


def adapter_name(module: str) -> str:
    """The name of an adapter of --lora-modules; empty where it has none."""
    if module.startswith("{"):
        return str(json.loads(module).get("name") or "")
    name, is_named, _ = module.partition("=")
    return name if is_named else ""
