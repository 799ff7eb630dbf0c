"""What does the plug-in call of CANN's Python interface? One copy, which copies nothing here."""


def memcpy(*arguments):
    """Success."""
    return 0
