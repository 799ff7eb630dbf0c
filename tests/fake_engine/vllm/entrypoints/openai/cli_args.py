"""The flags that the stand-in knows."""

import argparse


def make_arg_parser(parser):
    """A few flags of the real one, in the same spellings."""
    for name, default in (("--model", "m"), ("--host", "127.0.0.1"), ("--compilation-config", None)):
        parser.add_argument(name, default=default)
    for name, default in (("--port", 8000), ("--max-model-len", 2048), ("--block-size", 128), ("--max-num-seqs", 8)):
        parser.add_argument(name, type=int, default=default)
    parser.add_argument("--max-num-batched-tokens", type=int, default=2048)
    parser.add_argument("--enforce-eager", action="store_true")
    parser.add_argument("--enable-prefix-caching", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--additional-config")
    return parser
