"""Any name of torchvision: an empty class of that name."""


def named(name):
    """The module-level `__getattr__` of every part of this stand-in."""
    if name.startswith("__"):
        raise AttributeError(name)
    return type(name, (), {})
