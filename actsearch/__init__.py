"""actsearch: which activation function should this model use on this data, and is the difference real?

import actsearch
result = actsearch.search("mlp", "mnist1d", ["relu", "gelu", {"leaky_relu": {"negative_slope": "search"}}])
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from actsearch.activations import CATALOG, Spec, get_activation
    from actsearch.api import Study, compare, search
    from actsearch.data import Data, Goal, Metric, Source
    from actsearch.errors import ActSearchError
    from actsearch.question.recipe import Recipe
    from actsearch.results.judged import judge
    from actsearch.swap import find_activations, swap_activations

__version__ = "0.1.0"
_PLACES = {
    "activations": ("CATALOG", "Spec", "get_activation"),
    "api": ("Study", "compare", "search"),
    "data": ("Data", "Goal", "Metric", "Source"),
    "errors": ("ActSearchError",),
    "question.recipe": ("Recipe",),
    "results.judged": ("judge",),
    "swap": ("find_activations", "swap_activations"),
}
__all__ = [
    "CATALOG", "ActSearchError", "Data", "Goal", "Metric", "Recipe", "Source", "Spec", "Study", "compare",
    "find_activations", "get_activation", "judge", "search", "swap_activations",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Imports torch and Optuna only when something is asked for: the command starts without waiting for them."""
    for place, names in _PLACES.items():
        if name in names:
            return getattr(importlib.import_module(f"actsearch.{place}"), name)
    raise AttributeError(f"module 'actsearch' has no attribute '{name}'")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
