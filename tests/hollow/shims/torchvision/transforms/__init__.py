"""A part of torchvision of which only names are needed."""

from torchvision import anything

__getattr__ = anything.named


class InterpolationMode:
    """Its members are used as default values."""

    NEAREST = "nearest"
    NEAREST_EXACT = "nearest-exact"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    BOX = "box"
    HAMMING = "hamming"
    LANCZOS = "lanczos"
