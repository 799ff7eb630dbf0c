"""The reference server: a perfectly regular engine with known token times.

Its first token leaves a fixed time after the last byte of a request was read, every further
one on an absolute grid, and it logs when each really left: what a client reports beyond
that is the client's own doing.
"""
