"""Data sets as tensors, each with its goal: the loss that nets are trained for and the metric that judges them."""

from actsearch.data.classification import cifar10, digits, fashion_mnist, mnist1d
from actsearch.data.goal import Goal, next_token, pixels
from actsearch.data.image import image
from actsearch.data.source import Data, Source
from actsearch.data.text import text
from actsearch.question.metrics import Metric

__all__ = [
    "Data",
    "Goal",
    "Metric",
    "Source",
    "cifar10",
    "digits",
    "fashion_mnist",
    "image",
    "mnist1d",
    "next_token",
    "pixels",
    "text",
]
