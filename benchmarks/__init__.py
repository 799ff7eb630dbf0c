"""Benchmarks of the harness itself, against servers whose truth is known."""
