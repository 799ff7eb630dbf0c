"""For what is the stand-in used?"""

import enum


class UsageContext(enum.Enum):
    """The one use that is asked about."""

    OPENAI_API_SERVER = "server"
