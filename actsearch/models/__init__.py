"""Models: functions that build a net with one activation for each slot. `model.py` defines what a model function is."""

from actsearch.models.cnn import cnn1d, cnn2d
from actsearch.models.mlp import mlp
from actsearch.models.model import Model
from actsearch.models.resnet import resnet
from actsearch.models.timm import timm
from actsearch.models.torchvision import torchvision
from actsearch.models.transformer import transformer

__all__ = ["Model", "cnn1d", "cnn2d", "mlp", "resnet", "timm", "torchvision", "transformer"]
