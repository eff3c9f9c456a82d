"""actsearch: which activation function should this model use on this data, and is the difference real?

    import actsearch
    result = actsearch.search("mlp", "mnist1d", ["relu", "gelu", {"leaky_relu": {"negative_slope": "search"}}])
"""

from typing import Any

__version__ = "0.1.0"
__all__ = ["CATALOG", "ActSearchError", "Spec", "compare", "get_activation", "search", "swap_activations"]


def __getattr__(name: str) -> Any:
    """Imports torch and Optuna only when something is asked for: the command line starts without waiting for them."""
    if name in ("CATALOG", "Spec", "get_activation"):
        from actsearch import activations

        return getattr(activations, name)
    if name in ("search", "compare"):
        from actsearch import api

        return getattr(api, name)
    if name == "swap_activations":
        from actsearch.swap import swap_activations

        return swap_activations
    if name == "ActSearchError":
        from actsearch.errors import ActSearchError

        return ActSearchError
    raise AttributeError(f"module 'actsearch' has no attribute '{name}'")
