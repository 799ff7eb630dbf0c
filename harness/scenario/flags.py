"""Flags and environment variables of engines as files give them: their names, and switches as true or false."""

from collections.abc import Collection, Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator

from harness.messages import Message, message
from harness.scenario.base import matching, refused, with_keys
from harness.scenario.error_messages import show

_FLAG = r"[A-Za-z][A-Za-z0-9_.-]*"
VARIABLE = r"[A-Za-z_][A-Za-z0-9_]*"


def _as_text(value: Any) -> Any:
    """Whole numbers as text, for what every shell would take as it stands."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def flag_name(spelled: str) -> str:
    """A flag of `vllm serve` in snake case, however it is spelled: `--max-model-len` is max_model_len."""
    return spelled.removeprefix("--").replace("-", "_")


def _in_snake_case(args: Mapping[str, Any]) -> dict[str, Any]:
    flags: dict[str, Any] = {}
    for spelled, value in args.items():
        flag = flag_name(spelled)
        if flag in flags:
            raise refused(message("scenario.flag_twice", flag=flag, spelled=spelled))
        flags[flag] = value
    return flags


Flag = Annotated[str, AfterValidator(matching(rf"(--)?{_FLAG}", message("scenario.expected_flag")))]
Flags = Annotated[dict[Flag, Any], with_keys(rf"(--)?{_FLAG}", {})]
Args = Annotated[Flags, AfterValidator(lambda args: switched(_in_snake_case(args)))]
"""Flags of an engine in snake case, each once, switches as true or false."""
Variable = Annotated[str, AfterValidator(matching(VARIABLE, message("scenario.expected_variable")))]
Variables = Annotated[
    dict[Variable, Annotated[str, BeforeValidator(_as_text)]],
    with_keys(VARIABLE, {"type": ["string", "integer"]}),
]

_TRUE, _FALSE = ("true", "on", "yes", "1"), ("false", "off", "no", "0")
# The switches of vLLM 0.23 to 0.32 and of the embedded engine, for where no interpreter can be asked.
SWITCHES = frozenset(
    """
    aggregate-engine-logging allow-credentials allow-deprecated-quantization async-scheduling
    cohere-is-reasoning-model cudagraph-metrics data-parallel-external-lb data-parallel-hybrid-lb
    data-parallel-multi-port-external-lb dcp-q-replicate disable-cascade-attn disable-chunked-mm-input
    disable-custom-all-reduce disable-fastapi-docs disable-frontend-multiprocessing
    disable-hybrid-kv-cache-manager disable-log-stats disable-nccl-for-dp-synchronization
    disable-sliding-window disable-uvicorn-access-log enable-auto-tool-choice enable-batch-sharded-sampling
    enable-chunked-prefill enable-cumem-allocator enable-dbo enable-elastic-ep enable-ep-weight-filter
    enable-eplb enable-expert-parallel enable-fault-tolerance enable-flash-late-interaction
    enable-flashinfer-autotune enable-force-include-usage enable-hc-sp enable-layerwise-nvtx-tracing
    enable-log-deltas enable-log-outputs enable-log-requests enable-logging-iteration-details enable-lora
    enable-mamba-cache-stochastic-rounding enable-mamba-shared-prefix-checkpoint enable-mfu-metrics
    enable-mixed-moe-lora-format enable-mm-embeds enable-moe-shared-loras enable-nccl-comm-suspend
    enable-offline-docs enable-per-request-metrics enable-prefix-caching enable-prompt-embeds
    enable-prompt-tokens-details enable-request-id-headers enable-return-routed-experts enable-scale-out
    enable-server-load-tracking enable-shm-tensor-arena enable-sleep-mode enable-ssl-refresh
    enable-tokenizer-info-endpoint enable-tower-connector-lora enable-trace-replay enforce-eager
    exclude-tools-when-tool-choice-none fail-on-environ-validation fully-sharded-loras grpc headless
    interleave-mm-strings jit-monitor-verbose kv-cache-metrics kv-sharing-fast-prefill language-model-only
    log-error-stack long-prefill-token-threshold-adaptive mm-device-do-normalize mm-encoder-only numa-bind
    ray-workers-use-nsight return-sampling-mask return-tokens-as-token-ids scheduler-reserve-full-isl
    skip-mm-profiling skip-tokenizer-init sleep-mode-offload-cudagraph specialize-active-lora
    swa-bounded-replay tokens-only trust-remote-code trust-request-chat-template trust-request-mm-kwargs
    use-fp64-gumbel use-replayssm use-tqdm-on-load
    """.replace("-", "_").split()
)


def switch_of(value: Any) -> bool | None:
    """What a value means for a switch: true, on, yes, 1, or their opposites; None where it means neither."""
    text = str(value).strip().lower()
    return True if text in _TRUE else False if text in _FALSE else None


def switched(args: Mapping[str, Any], switches: Collection[str] = SWITCHES) -> dict[str, Any]:
    """Flags with every switch as true or false; what means neither is left as it is."""
    return {name: _meant(value) if is_switch(name, switches) else value for name, value in args.items()}


def is_switch(name: str, switches: Collection[str] = SWITCHES) -> bool:
    """Whether a flag is a switch, or the `no_` form of one."""
    return name in switches or name.removeprefix("no_") in switches


def _meant(value: Any) -> Any:
    meant = switch_of(value)
    return value if meant is None or value is None else meant


def neither(value: Any) -> Message:
    """What is wrong with a value that a switch cannot have."""
    return message("scenario.not_a_switch", value=show(value))
