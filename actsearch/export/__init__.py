"""A spec as a Python file of its own, beside it as ONNX, each checked by running it."""

from actsearch.export.files import export, module_source

__all__ = ["export", "module_source"]
