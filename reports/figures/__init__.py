"""How does each frame become a drawing? One module a kind of figure; DataFrames in, Figures out."""
