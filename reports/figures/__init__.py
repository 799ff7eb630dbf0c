"""Drawings: one module a kind of figure; DataFrames in, Figures out."""
