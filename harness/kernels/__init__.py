"""How does a scenario of kernels become a result folder? The parent of `python -m kernels_bench`."""
