"""A spec as a Python file of its own, beside it as ONNX, each checked by running it."""

from actsearch.export.files import export, source

__all__ = ["export", "source"]
