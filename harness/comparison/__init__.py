"""Two results held against each other: comparability, repeats, judging, gate."""
