"""Applies swap_activations to every classifier of torchvision and to 40 nets of timm, each of another family.

    python benchmarks/swap.py                          # all nets, into swap.md; a quarter of an hour on one core
    python benchmarks/swap.py --only resnet18 vgg11    # only these, printed

Weights are random, so nothing is downloaded. swap.md explains the columns above its table.
"""

from __future__ import annotations

import argparse
import copy
import gc
import math
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torchvision import models

from actsearch import swap_activations
from actsearch.swap import Found
from actsearch.swap.functions import FUNCTIONS, HIDDEN_NAMES
from actsearch.swap.net import find_activations

TABLE = Path(__file__).with_suffix(".md")
TIMM = """
resnet10t resnetv2_50 resnest14d seresnext26t_32x4d skresnet18 regnetx_002 efficientnet_b0 mobilenetv2_050
mobilenetv3_small_050 mobilenetv4_conv_small_035 mixnet_s ghostnet_050 densenet121 dpn48b dla34 hrnet_w18_small vgg11
xception41 inception_v4 nasnetalarge cspdarknet53 selecsls42 ese_vovnet19b_dw rexnet_100 nfnet_l0 repvgg_a0
convnext_atto vit_tiny_patch16_224 swin_tiny_patch4_window7_224 cait_xxs24_224 xcit_nano_12_p16_224 levit_128s
mobilevit_xs mobilevitv2_050 mixer_s32_224 gmlp_s16_224 poolformer_s12 edgenext_xx_small efficientformer_l1 fastvit_t8
eva02_tiny_patch14_224 pvt_v2_b0
""".split()
ABOUT = """# Swapping the activations of other people's nets

`python benchmarks/swap.py`, torch {torch}, torchvision {torchvision}, timm {timm}, random weights, evaluation mode.

| column | says |
| --- | --- |
| activations | modules + functions called in `forward`, gates among them |
| swapped | hidden activations that were replaced |
| left | the others, and what they are |
| like for like | each replaced by itself: the largest difference of an output, relative to the largest output |
| missed | calls of a hidden activation function (`relu`, `gelu`) that PyTorch still saw in a forward pass after all \
were swapped for x·cos(x), but for those in the column left |
| changed | x·cos(x) gives other outputs |
| keys | the state dict from before loads strictly |
| s | seconds that finding and swapping took, on one core that had other work too |

"""
HEAD = "| net | activations | swapped | left | like for like | missed | changed | keys | s |\n" + "| --- " * 9 + "|\n"


class Itself(nn.Module):
    """The function that was there before, made to work out of place."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = (function,)  # in a tuple a module is not registered as a child

    def forward(self, x: Tensor) -> Tensor:
        return self.function[0](x.clone())


class Other(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.cos(x)


class Calls(TorchFunctionMode):
    """Counts the calls of hidden activation functions."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = FUNCTIONS.get(func) or getattr(func, "__name__", "").rstrip("_")
        if name in HIDDEN_NAMES:
            self.seen[name] += 1
        return func(*args, **(kwargs or {}))


@dataclass
class Row:
    """One net's line of the table."""

    name: str
    modules: int
    functions: int
    swapped: int
    left: dict[str, int]
    like_for_like: float
    missed: Counter[str]
    changed: bool
    keys: bool
    seconds: float

    @property
    def odd(self) -> bool:
        return self.like_for_like > 1e-4 or bool(self.missed) or not (self.changed and self.keys)

    def __str__(self) -> str:
        left = ", ".join(f"{n} {what}" for what, n in self.left.items()) or "none"
        missed = ", ".join(f"{n} {what}" for what, n in self.missed.items()) or "0"
        same = "equal" if self.like_for_like == 0 else f"{self.like_for_like:.0e}"
        yes = {True: "yes", False: "**no**"}
        return (
            f"| {self.name} | {self.modules} + {self.functions} | {self.swapped} | {left} | {same} | {missed} "
            f"| {yes[self.changed]} | {yes[self.keys]} | {self.seconds:.1f} |"
        )


@torch.no_grad()
def row(name: str, net: nn.Module, size: int) -> Row:
    net.eval()
    for p in net.parameters():  # some nets start with zero heads or branches scaled by 1e-6, which would hide a swap
        if p.dim() > 1 and not p.any():
            nn.init.normal_(p, std=0.02)
        elif 0 < p.abs().max() < 1e-3:
            p.fill_(0.1)
    x = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    keys, before = net.state_dict(), _output(net, x)
    found, _ = find_activations(net)
    there = [f for f in found if not f.stays]
    start = time.perf_counter()
    swapped = swap_activations(net, {f.path: _same(f) for f in there})
    seconds = time.perf_counter() - start
    difference = _apart(_output(net, x), before)
    swap_activations(net, Other)
    with Calls() as calls:
        after = _output(net, x)
    calls.seen -= Counter(f.was.lower().removesuffix("()") for f in found if f.stays)
    missing = net.load_state_dict(keys, strict=False)
    functions = sum(f.module is None for f in found)
    left = Counter(_short(text) for text in swapped.left.values())
    return Row(
        name, len(found) - functions, functions, swapped.count, dict(left), difference, calls.seen,
        1e-6 < _apart(after, before) < math.inf, not any(missing), seconds,
    )  # fmt: skip


def _same(f: Found) -> Callable[[], nn.Module]:
    if f.module is not None:
        old = copy.copy(f.module)  # a copy: the original writes in place until it is swapped
        if hasattr(old, "inplace"):
            old.inplace = False  # pyright: ignore[reportArgumentType]
        return lambda: Itself(old)
    function = next(function for function, name in FUNCTIONS.items() if f.was == f"{name}()")
    return lambda: Itself(function)


def _short(text: str) -> str:
    """ "Hardsigmoid: a gate or an output, not a hidden activation" → "Hardsigmoid (gate)"."""
    what, _, why = text.partition(": ")
    if why.startswith(("a gate", "an output")):
        return f"{what} ({'gate' if why.startswith('a gate') else 'output'})"
    return what if type(getattr(nn, what, None)) is type and "inside torch's kernel" in why else f"{what} ({why})"


def _apart(a: Tensor, b: Tensor) -> float:
    """The largest absolute difference, relative to the largest absolute value of b."""
    return float((a - b).abs().max() / b.abs().max())


def _output(net: nn.Module, x: Tensor) -> Tensor:
    out = net(x)
    return out if isinstance(out, Tensor) else out[0]


def torchvision_net(name: str) -> tuple[nn.Module, int]:
    fixed = {"vit_l_16": 224, "vit_b_16": 224, "vit_b_32": 224, "vit_l_32": 224, "vit_h_14": 224, "maxvit_t": 224}
    sized = name.startswith(("inception", "alexnet"))
    keywords = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}  # theirs takes a minute
    return models.get_model(name, weights=None, **keywords), fixed.get(name, 96 if sized else 64)


def timm_net(name: str) -> tuple[nn.Module, int]:
    cfg = timm.get_pretrained_cfg(name)
    size = cfg.input_size[-1] if cfg is not None else 224
    return timm.create_model(name), size if cfg is None or cfg.fixed_input_size else min(size, 128)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", help="names of nets; their rows are only printed")
    only = parser.parse_args().only
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    text = ABOUT.format(torch=torch.__version__, torchvision=_version("torchvision"), timm=timm.__version__)
    for title, names, make in (
        ("torchvision", models.list_models(module=models), torchvision_net),
        ("timm", TIMM, timm_net),
    ):
        rows = []
        for name in names:
            if only is not None and name not in only:
                continue
            net, size = make(name)
            rows.append(row(name, net, size))
            print(rows[-1], "  <- odd" if rows[-1].odd else "", flush=True)
            del net
            gc.collect()
        text += f"## {title}: {len(rows)} nets, {sum(r.swapped for r in rows)} activations swapped\n\n"
        text += HEAD + "".join(f"{line}\n" for line in rows) + "\n"
    if only is None:
        TABLE.write_text(text.rstrip() + "\n")


def _version(package: str) -> str:
    from importlib.metadata import version

    return version(package)


if __name__ == "__main__":
    main()
