"""The names of flags: those of vLLM that the simulated engine does not act on, short forms, and forms with `no_`."""

import json
from collections.abc import Mapping
from typing import Any

from harness.errors import InputError, suggestion
from harness.messages import message

# Flags of vLLM 0.32 that the simulated engine knows and does not act on.
WITHOUT_EFFECT = frozenset(
    """
    additional-config aggregate-engine-logging all2all-backend allow-credentials allowed-headers
    allowed-local-media-path allowed-media-domains allowed-methods allowed-origins api-key
    api-server-count async-scheduling attention-backend attention-config aux-output-config chat-template
    chat-template-content-format code-revision compilation-config config-format convert
    cp-kv-cache-interleave-size cpu-offload-gb cpu-offload-params cudagraph-metrics
    custom-histogram-buckets data-parallel-address data-parallel-backend data-parallel-external-lb
    data-parallel-hybrid-lb data-parallel-rank data-parallel-rpc-port data-parallel-size-local
    data-parallel-start-rank decode-context-parallel-size device-ids disable-cascade-attn
    disable-chunked-mm-input disable-custom-all-reduce disable-fastapi-docs
    disable-frontend-multiprocessing disable-hybrid-kv-cache-manager disable-log-stats
    disable-sliding-window disable-uvicorn-access-log distributed-executor-backend download-dir
    enable-auto-tool-choice enable-dbo enable-elastic-ep enable-eplb enable-force-include-usage
    enable-log-outputs enable-log-requests enable-logging-iteration-details enable-mfu-metrics
    enable-mm-embeds enable-prompt-embeds enable-request-id-headers enable-server-load-tracking
    enable-sleep-mode enable-tokenizer-info-endpoint eplb-config expert-placement-strategy
    fully-sharded-loras generation-config guided-decoding-backend h11-max-header-count
    h11-max-incomplete-event-size hf-config-path hf-overrides hf-token ignore-patterns
    io-processor-plugin kv-cache-metrics kv-cache-metrics-sample kv-events-config kv-offloading-backend
    kv-offloading-size kv-sharing-fast-prefill limit-mm-per-prompt load-format log-config-file
    log-error-stack log-level logging-config logits-processors logprobs-mode lora-dtype master-addr
    master-port max-cpu-loras max-log-len max-logprobs max-num-queued-reqs max-num-queued-tokens
    max-parallel-loading-workers mm-encoder-tp-mode mm-processor-cache-gb mm-processor-kwargs model-impl
    model-loader-extra-config nnodes node-rank numa-bind offload-backend optimization-level
    otlp-traces-endpoint override-generation-config performance-mode pipeline-parallel-size
    pooler-config prefill-context-parallel-size prefix-caching-hash-algo profiler-config
    reasoning-config response-role return-tokens-as-token-ids revision root-path runner
    safetensors-load-strategy scheduler-cls show-hidden-metrics-for-version shutdown-timeout
    skip-mm-profiling skip-tokenizer-init ssl-ca-certs ssl-cert-reqs ssl-certfile ssl-keyfile
    stream-interval structured-outputs-config tokenizer tokenizer-mode tokenizer-revision
    tool-call-parser tool-parser-plugin trust-remote-code use-tqdm-on-load uvicorn-log-level
    weight-transfer-config worker-cls worker-extension-cls     """.replace("-", "_").split()
)
OBJECTS = ("speculative_config", "kv_transfer_config")
"""Flags whose keys may be given one by one, as --speculative-config.method."""
_SHORT = {
    "tp": "tensor_parallel_size",
    "pp": "pipeline_parallel_size",
    "dp": "data_parallel_size",
    "ep": "enable_expert_parallel",
    "q": "quantization",
    "cc": "compilation_config",
    "sc": "speculative_config",
    "device_memory_utilization": "gpu_memory_utilization",
    "kv_cache_memory": "kv_cache_memory_bytes",
}


def canonical(flag: str) -> str:
    """A flag's one name: no dashes before it, snake case, long form."""
    name = flag.lstrip("-").replace("-", "_")
    return _SHORT.get(name, name)


def obeyed_flags(flags: Mapping[str, Any], obeyed: frozenset[str]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The flags that are obeyed, by canonical name, and the names of those that have no effect.

    `no_x: true` means `x: false`, as on vLLM's command line.

    Raises:
        InputError: vLLM has no such flag; with the nearest name.
    """
    values: dict[str, Any] = {}
    ignored = []
    for flag, value in flags.items():
        name = canonical(flag)
        off = name.removeprefix("no_") if name.startswith("no_") else None
        if off is not None and (off in obeyed or off in WITHOUT_EFFECT):
            name, value = off, not is_true(value)  # noqa: PLW2901 - the two spellings meet here
        if name in obeyed or name.split(".", 1)[0] in OBJECTS:
            values[name] = value
        elif name in WITHOUT_EFFECT or name.split(".", 1)[0] in WITHOUT_EFFECT:
            ignored.append(name)
        else:
            known = [*obeyed, *WITHOUT_EFFECT]
            raise InputError(message("simulator.unknown_flag", flag=flag, suggestion=suggestion(name, known)))
    return values, tuple(ignored)


def is_true(value: Any) -> bool:
    """Whether a switch is on: a flag without a value is."""
    return value is None or value is True or str(value).lower() in ("true", "1", "yes", "")


def json_or_same(value: Any) -> Any:
    """A value of a flag; of a text that is JSON of a list or a mapping, that."""
    return json.loads(value) if isinstance(value, str) and value.strip()[:1] in ("{", "[") else value
