"""actsearch: which activation function should this model use on this data, and is the difference real?

import actsearch
result = actsearch.search("mlp", "mnist1d", ["relu", "gelu", {"leaky_relu": {"negative_slope": "search"}}])
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from actsearch.activations import CATALOG, Spec, get_activation
    from actsearch.api import compare, search
    from actsearch.errors import ActSearchError
    from actsearch.swap.net import swap_activations

__version__ = "0.1.0"
__all__ = ["CATALOG", "ActSearchError", "Spec", "compare", "get_activation", "search", "swap_activations"]


def __getattr__(name: str) -> Any:
    """Imports torch and Optuna only when something is asked for: the command line starts without waiting for them."""
    places = {"search": "api", "compare": "api", "swap_activations": "swap", "ActSearchError": "errors"}
    if name in __all__:
        return getattr(importlib.import_module(f"actsearch.{places.get(name, 'activations')}"), name)
    raise AttributeError(f"module 'actsearch' has no attribute '{name}'")
