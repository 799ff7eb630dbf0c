"""Benchmarks of paged-attention kernels, beside the hardware's limits."""
