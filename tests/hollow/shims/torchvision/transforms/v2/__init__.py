"""A part of torchvision of which only names are needed."""

from torchvision import anything
from torchvision.transforms.v2 import functional

__getattr__ = anything.named
__all__ = ["functional"]
