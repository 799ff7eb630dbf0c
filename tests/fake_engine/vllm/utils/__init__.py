"""The parser class, where vLLM kept it before 0.12."""

import argparse


class FlexibleArgumentParser(argparse.ArgumentParser):
    """The real one also takes underscores and files."""
