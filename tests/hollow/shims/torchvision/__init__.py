"""What does vLLM's import of torchvision need? Names: no image is ever transformed here."""

__version__ = "0.28.0"
