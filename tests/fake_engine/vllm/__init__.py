"""A stand-in for vLLM that starts at once: its log, its endpoints and its ways to die."""
