"""The counters of the stand-in's engine."""


def generate_latest():
    """Text for /metrics."""
    names = {"num_requests_running": 1, "generation_tokens_total": 9, "unwatched": 1}
    config = b'vllm:cache_config_info{block_size="128",num_gpu_blocks="9"} 1.0\n'
    return config + "".join(f"vllm:{name} {value}.0\n" for name, value in names.items()).encode()
