"""The usage contexts of the stand-in."""

import enum


class UsageContext(enum.Enum):
    """The uses that are asked about."""

    OPENAI_API_SERVER = "server"
    LLM_CLASS = "llm"
