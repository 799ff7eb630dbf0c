"""A part of torchvision of which only names are needed."""

from torchvision import anything

__getattr__ = anything.named
