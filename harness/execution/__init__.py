"""One run from scenario to result folder: serve, offline and kernels."""
