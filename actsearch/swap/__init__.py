"""Swap: finds and replaces the activations of any nn.Module."""

from actsearch.swap.net import Swapped, find_activations, swap_activations
from actsearch.swap.survey import Found

__all__ = ["Found", "Swapped", "find_activations", "swap_activations"]
