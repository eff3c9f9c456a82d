"""A small transformer. Its activations, gated ones such as swiglu included, stand in the feed-forward layers."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from actsearch.activations.spec import ActivationModule
from actsearch.errors import ActSearchError
from actsearch.models.blocks import check_sizes, input_width


class Block(nn.Module):
    """A pre-norm block: x + attention(norm(x)), then x + feed_forward(norm(x)). x: (N, tokens, width).

    feed_forward: a linear layer to `hidden` features, the activation, and a linear layer back to `width`. causal: if
    true, a token attends only to itself and to the tokens before it.
    """

    def __init__(self, width: int, heads: int, hidden: int, activation: nn.Module, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up = nn.Linear(width, input_width(activation, hidden))
        self.activation = activation
        self.down = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        return x + self.down(self.activation(self.up(self.norm2(x))))


class Patches(nn.Module):
    """Cuts sequences (N, length) or images (N, C, H, W) into tokens (N, tokens, features).

    A token is a number of neighbouring values of a sequence, padded with zeros at its end, or one row of an image.
    """

    def __init__(self, tokens: int, features: int) -> None:
        super().__init__()
        self.tokens, self.features = tokens, features

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 4:
            x = x.movedim(1, -2)  # a token is one row with all of its channels
        x = x.flatten(1)
        return F.pad(x, (0, self.tokens * self.features - x.shape[1])).unflatten(1, (self.tokens, self.features))


class Transformer(nn.Module):
    """A transformer: embedding, learned positions, blocks, a layer norm and one linear layer.

    embed: maps the inputs to (N, tokens, width). pooled: if true, the outputs are computed from the mean over tokens
    and have shape (N, n_outputs); otherwise from each token, (N, tokens, n_outputs).
    """

    def __init__(
        self, embed: nn.Module, tokens: int, n_outputs: int, width: int, blocks: list[Block], pooled: bool
    ) -> None:
        super().__init__()
        self.embed, self.pooled = embed, pooled
        self.position = nn.Parameter(torch.randn(tokens, width) * 0.02)
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, n_outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.blocks(self.embed(x) + self.position))
        return self.head(x.mean(1) if self.pooled else x)


def hidden_width(activation: Callable[..., nn.Module], hidden: int, equal_parameters: bool) -> tuple[nn.Module, int]:
    """The next activation module and the hidden width to use with it.

    equal_parameters: if true, and if the activation takes more channels than it returns, as gated pairs do, the hidden
    width is reduced so that both linear layers together keep their number of weights (2/3 for pairs, Shazeer 2020).
    """
    module = activation(hidden, dim=-1)
    wide = input_width(module, hidden)
    if wide == hidden or not equal_parameters:
        return module, hidden
    hidden = max(2, 2 * round(hidden / (1 + wide / hidden)))
    if isinstance(module, ActivationModule):
        place = module.place
        module = module.spec.module(hidden, -1)
        module.place = place
    return module, hidden


def transformer(
    activation: Callable[..., nn.Module],
    in_shape: tuple[int, ...],
    n_classes: int,
    width: int = 64,
    depth: int = 2,
    heads: int = 4,
    hidden: int | None = None,
    patch: int = 4,
    equal_parameters: bool = True,
    n_tokens: int | None = None,
    out_shape: tuple[int, ...] = (),
) -> nn.Module:
    """A transformer with `depth` blocks of attention and feed-forward layers.

    in_shape: (length,), cut into tokens of `patch` values, or an image (channels, height, width), each row a token.
    hidden: the width of the feed-forward layers; if None, 4 × width. equal_parameters: see `hidden_width`. n_tokens:
    the size of the vocabulary if inputs are tokens already; None if they are numbers. out_shape: if it is (length,
    n_classes), as for a language model, each token gets outputs and attends only to itself and to those before it;
    otherwise the outputs are computed from the mean over tokens.
    Raises ActSearchError if sizes do not fit together.
    """
    hidden = 4 * width if hidden is None else hidden
    check_sizes(width=width, depth=depth, heads=heads, hidden=hidden, patch=patch)
    if width % heads:
        raise ActSearchError(f"model.width={width} is not a multiple of model.heads={heads}. Choose one that is.")
    if n_tokens is not None:
        tokens, embed = math.prod(in_shape), nn.Embedding(n_tokens, width)
    else:
        image = len(in_shape) == 3
        tokens = in_shape[1] if image else math.ceil(math.prod(in_shape) / patch)
        features = in_shape[0] * in_shape[2] if image else patch
        embed = nn.Sequential(Patches(tokens, features), nn.Linear(features, width))
    each = len(out_shape) == 2
    if each and tokens != out_shape[0]:
        raise ActSearchError(
            f"model=transformer gives outputs for each of {tokens} tokens, but the data need them for {out_shape[0]}. "
            "The inputs and the outputs of an example must have the same length."
        )
    blocks = []
    for _ in range(depth):
        module, n = hidden_width(activation, hidden, equal_parameters)
        blocks.append(Block(width, heads, n, module, causal=each))
    return Transformer(embed, tokens, n_classes, width, blocks, pooled=not each)
