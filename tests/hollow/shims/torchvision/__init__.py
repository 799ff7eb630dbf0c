"""The names that vLLM's import of torchvision needs: no image is ever transformed here."""

__version__ = "0.28.0"
