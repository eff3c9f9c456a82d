"""Activations: the catalogue, and specs, which are activations whose parameters are settled."""

from actsearch.activations.activation import Activation, Param
from actsearch.activations.catalog import CATALOG
from actsearch.activations.spec import Spec, get_activation

__all__ = ["CATALOG", "Activation", "Param", "Spec", "get_activation"]
