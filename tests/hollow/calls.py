"""What torch_npu does on the stub CANN; runs in an interpreter that has it, prints JSON."""

import json
import os
import sys

import torch
import torch_npu

FAILING = "aclnnFusedInferAttentionScoreV3GetWorkspaceSize"


def empty(*sizes, dtype=torch.bfloat16):
    """A tensor on the device."""
    return torch.empty(*sizes, dtype=dtype, device="npu")


def attention(**changed):
    """One call of paged attention as the plug-in makes it."""
    cache = empty(64, 128, 256)
    given = {
        "query": empty(4, 8, 128), "key": cache, "value": cache, "block_table": empty(4, 16, dtype=torch.int32),
        "num_heads": 8, "num_key_value_heads": 2, "input_layout": "TND", "actual_seq_lengths": [1, 2, 3, 4],
        "actual_seq_lengths_kv": [5, 5, 5, 5], "block_size": 128, "sparse_mode": 3,
    }  # fmt: skip
    return torch_npu.npu_fused_infer_attention_score(**{**given, **changed})[0]


def older_attention():
    """One call of the attention of the ATB library."""
    cache, out = empty(64, 128, 2, 128), empty(4, 8, 128)
    torch_npu._npu_paged_attention(
        query=empty(4, 8, 128), key_cache=cache, value_cache=cache, num_kv_heads=2, num_heads=8, scale_value=0.09,
        block_table=empty(4, 16, dtype=torch.int32), context_lens=torch.full((4,), 100, dtype=torch.int32), out=out,
    )  # fmt: skip
    torch.npu.synchronize()


def refusal(call):
    """What is said to a call, in one line; empty where it is accepted."""
    try:
        call()
    except RuntimeError as fault:
        return " ".join(str(fault).split())
    return ""


def timed():
    """Milliseconds of five calls between two events, and whether the second event waited for them."""
    first, last = (torch.npu.Event(enable_timing=True) for _ in range(2))
    torch.npu.synchronize()
    first.record()
    for _ in range(5):
        attention()
    last.record()
    early = last.query()
    last.synchronize()
    return first.elapsed_time(last), early


def failing():
    """What the first, second and third call say where the second is to fail first."""
    os.environ["FAKE_CANN_FAIL"] = f"{FAILING}@2,PagedAttention"
    said = [refusal(attention) for _ in range(3)]
    return [*said, refusal(older_attention)]


def main():
    """Do all of it."""
    numbers = torch.randn(7, 5)
    found = {
        "name": torch.npu.get_device_name(),
        "memory": torch.npu.mem_get_info()[1],
        "shape": list(attention().shape),
        "older": refusal(older_attention),
        "same": torch.equal(numbers.npu().cpu(), numbers),
        "timed": timed(),
        "unknown": refusal(lambda: attention(block_tables=1)),
        "layout": refusal(lambda: attention(input_layout="XYZ")),
        "too_much": refusal(lambda: empty(1 << 30)),
        "failing": failing(),
    }
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
