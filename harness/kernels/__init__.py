"""The parent side of the kernel benchmarks in kernels_bench."""
