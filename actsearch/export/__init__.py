"""Export: writes a spec as a Python file that does not need actsearch, and as ONNX. Each is checked by running it."""

from actsearch.export.files import export, module_source

__all__ = ["export", "module_source"]
