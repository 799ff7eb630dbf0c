"""For what is the stand-in used?"""

import enum


class UsageContext(enum.Enum):
    """The uses that are asked about."""

    OPENAI_API_SERVER = "server"
    LLM_CLASS = "llm"
