"""The residual net of He et al. 2016 for small images, as CIFAR-10's (32 × 32)."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from actsearch.errors import ActSearchError
from actsearch.models.blocks import check_sizes


class BasicBlock(nn.Module):
    """A residual block: activation(BN(conv(activation(BN(conv(x))))) + shortcut). Input and output: (N, C, H, W).

    stride: of the first convolution and of the shortcut. activation: gives the module for a number of channels.
    """

    def __init__(self, channels: int, out: int, stride: int, activation: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(out)
        self.activation1 = activation(out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out)
        self.activation2 = activation(out)
        self.stride, self.more = stride, out - channels

    def forward(self, x: Tensor) -> Tensor:
        # option A of the paper: the shortcut keeps every stride-th pixel, and new channels are zeros
        shortcut = x[:, :, :: self.stride, :: self.stride]
        if self.more:
            shortcut = F.pad(shortcut, (0, 0, 0, 0, self.more // 2, self.more - self.more // 2))
        y = self.activation1(self.norm1(self.conv1(x)))
        return self.activation2(self.norm2(self.conv2(y)) + shortcut)


def resnet(
    activation: Callable[[int], nn.Module],
    in_shape: tuple[int, ...],
    n_classes: int,
    depth: int = 20,
    width: int = 16,
) -> nn.Module:
    """ResNet-20, -32, -44, -56 … of He et al. 2016, section 4.2.

    in_shape: (channels, height, width). depth: layers with weights, 6n + 2. width: channels of the first stage.
    """
    check_sizes(width=width)
    if depth < 8 or (depth - 2) % 6:
        raise ActSearchError(f"model.depth={depth}: a ResNet for small images has depth 8, 14, 20, 26, 32, … (6n + 2).")
    if len(in_shape) != 3:
        raise ActSearchError(f"model=resnet needs images (channels, height, width); the data have shape {in_shape}.")
    layers: list[nn.Module] = [
        nn.Conv2d(in_shape[0], width, 3, padding=1, bias=False), nn.BatchNorm2d(width), activation(width),
    ]  # fmt: skip
    channels = width
    for level in range(3):
        for n in range((depth - 2) // 6):
            out = width * 2**level
            layers.append(BasicBlock(channels, out, 2 if level and n == 0 else 1, activation))
            channels = out
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, n_classes))
