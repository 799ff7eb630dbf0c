"""What the plug-in calls of CANN's Python interface: one copy, which copies nothing here."""


def memcpy(*arguments):
    """Success."""
    return 0
