"""npu-harness: benchmarking and performance tuning of vLLM on Ascend NPUs."""

__version__ = "0.1.0"
