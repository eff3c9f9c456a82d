"""The values that a net computes, as a graph: which come from data, which from weights, and what becomes of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

# what multiplies its input by weights, whatever it is given
WEIGHING = {
    "linear", "bilinear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d",
    "embedding", "embedding_bag", "multi_head_attention_forward",
}  # fmt: skip
# what does so if one of its inputs is a parameter
PRODUCTS = {
    "matmul", "mm", "bmm", "mv", "dot", "inner", "einsum", "tensordot", "addmm", "addmv", "addbmm", "baddbmm", "cdist",
}  # fmt: skip
SHAPES = {
    "size",
    "dim",
    "numel",
    "shape",
    "ndim",
    "dtype",
    "device",
    "new_zeros",
    "new_ones",
    "zeros_like",
    "ones_like",
}
RESHAPING = {
    "view", "reshape", "flatten", "unflatten", "permute", "transpose", "t", "T", "mT", "movedim", "swapaxes", "squeeze",
    "unsqueeze", "expand", "expand_as", "repeat", "contiguous", "clone", "detach", "to", "float", "type_as", "getitem",
    "getattr", "chunk", "split", "unbind", "select", "narrow", "cat", "concat", "stack", "pad", "dropout",
}  # fmt: skip
MIXING = {"sum", "mean", "cumsum", "add", "sub", "mul", "affine_grid", "avg_pool2d", "adaptive_avg_pool2d"} | PRODUCTS
POSITIVE = {"log", "log2", "log10", "log1p", "sqrt", "rsqrt", "reciprocal"}
ROUNDING = {"round", "floor", "ceil", "trunc", "sign", "long", "int", "bool", "byte", "short"}
DRAWING = {"bernoulli", "multinomial", "poisson"}
ALIASES = {
    "iadd": "add", "isub": "sub", "rsub": "sub", "imul": "mul", "multiply": "mul", "truediv": "div", "itruediv": "div",
    "divide": "div", "true_divide": "div", "imatmul": "matmul", "subtract": "sub", "concatenate": "concat",
}  # fmt: skip

OUTPUT = "an output activation: the net's output is reached from it without another weight layer"
FRONT = "no weight layer comes before it"
PARAMETER = "it works on a parameter, not on the data"
RANGE = "its range matters: "
SHIFT = "a constant is added to it"
SQUARE = "it is squared"
ROUNDED = "it is rounded"


class Value(int):
    """The number of a value in a graph."""


class Values:
    """A graph of values. A value is made after those that it is made from."""

    def __init__(self) -> None:
        self.sources: list[tuple[int, ...]] = []
        self.data: list[bool] = []  # whether it depends on the net's input
        self.parameter: list[bool] = []  # whether it depends on parameters, and not on the input
        self.weighted: list[bool] = []  # whether a weight layer comes before it, or is what makes it
        self.weighs: list[bool] = []  # whether a weight layer makes it
        self.shifted: list[bool] = []  # whether it is another value plus a constant
        self._scaled: list[bool] = []  # whether it is another value times a parameter; their sum is a weight layer
        self._squared: list[bool] = []  # whether it is the square of another value
        self._passes: list[int] = []  # 2: its values are its source's, scaled or in another shape; 1: sums of them
        self._asks: list[Mapping[int, str]] = []  # the sources whose range matters to it, with the reason

    def add(
        self, sources: Iterable[int] = (), *, data: bool = False, parameter: bool = False, weighs: bool = False,
        shifted: bool = False, scaled: bool = False, squared: bool = False, passes: int = 0,
        asks: Mapping[int, str] | None = None,
    ) -> Value:  # fmt: skip
        sources = tuple(sources)
        self.sources.append(sources)
        self.data.append(data or any(self.data[s] for s in sources))
        self.parameter.append(not self.data[-1] and (parameter or any(self.parameter[s] for s in sources)))
        self.weighted.append(weighs or any(self.weighted[s] for s in sources))
        self.weighs.append(weighs)
        self.shifted.append(shifted)
        self._scaled.append(scaled)
        self._squared.append(squared)
        self._passes.append(passes)
        self._asks.append(asks or {})
        return Value(len(self.sources) - 1)

    def call(self, name: str, args: list[Any], keywords: Iterable[Any] = (), of_torch: bool = True) -> Value:
        """The value that a function or method gives. args: structures of values, and numbers. of_torch: whether the
        function is torch's or Python's; any other may be a weight layer if it gets a parameter.
        """
        name = ALIASES.get(name.strip("_"), name.strip("_"))
        args = [arg if isinstance(arg, int | float) and type(arg) not in (Value, bool) else leaves(arg) for arg in args]
        sources = [s for arg in [*args, leaves(list(keywords))] if isinstance(arg, list) for s in arg]
        if name in SHAPES:
            return self.add()
        weights = any(self.parameter[s] for s in sources)
        weighs = name in WEIGHING or (weights and (name in PRODUCTS or not of_torch))
        weighs |= name == "sum" and any(self._scaled[s] for s in sources)
        number = next((arg for arg in args if not isinstance(arg, list)), None)
        shifted = name in ("add", "sub") and bool(number)
        if number is not None and name in ("add", "sub", "mul", "div"):
            passes = 1 if shifted else 2
        else:
            passes = 2 if name in RESHAPING else 1 if name in MIXING | {"div"} else 0
        asks = self._asked(name, args, sources)
        return self.add(
            sources, weighs=weighs, shifted=shifted, scaled=name == "mul" and weights,
            squared=name == "square" or (name == "pow" and number == 2), passes=passes, asks=asks,
        )  # fmt: skip

    def _asked(self, name: str, args: list[Any], sources: list[int]) -> dict[int, str]:
        """The sources of a call whose range matters to it, with the reason."""
        first, second = ([*args, None, None])[:2]
        if name == "div" and isinstance(second, list):
            return dict.fromkeys(second, "it is divided by")
        if name in POSITIVE and isinstance(first, list):
            return dict.fromkeys(first, "its logarithm, root or reciprocal is taken")
        if name == "pow" and isinstance(second, int | float) and (second < 0 or second != int(second)):
            return dict.fromkeys(sources, "its logarithm, root or reciprocal is taken")
        if name in ROUNDING:
            return dict.fromkeys(sources, ROUNDED)
        if name == "grid_sample" and isinstance(second, list):
            return dict.fromkeys(second, "it gives positions")
        if name in DRAWING:
            return dict.fromkeys(sources, "numbers are drawn by it")
        return {}

    def places(self, sites: Iterable[int], outputs: Iterable[int], part: bool) -> dict[int, str | None]:
        """For each activation, why it is no hidden one; None if it is.

        sites: the activations' values. outputs: the net's. part: whether there are weight layers before and after it.
        """
        n_values = len(self.sources)
        reaches, shifts, needs = [False] * n_values, [""] * n_values, [""] * n_values
        users = Counter(s for sources in self.sources for s in {*sources})
        for n in () if part else outputs:
            reaches[n] = True
        for n in reversed(range(n_values)):
            for s in self.sources[n]:
                near = SHIFT if self.shifted[n] else SQUARE if self._squared[n] and users[s] == 1 else ""
                reaches[s] |= reaches[n] and not self.weighs[n]
                shifts[s] = shifts[s] or near or (shifts[n] if self._passes[n] == 2 else "")
                needs[s] = needs[s] or self._asks[n].get(s, needs[n] if self._passes[n] else "")
        return {n: self._place(n, reaches[n], shifts[n] or needs[n], part) for n in sites}

    def _place(self, n: int, reaches: bool, need: str, part: bool) -> str | None:
        if self.parameter[n] and not self.weighted[n]:
            return PARAMETER
        if not (self.weighted[n] or part):
            return FRONT
        if reaches:
            return OUTPUT
        return RANGE + need if need else None


def leaves(made: Any) -> list[Value]:
    """The values in a structure of lists, tuples and dicts."""
    if isinstance(made, Value):
        return [made]
    if isinstance(made, Mapping):
        made = made.values()
    elif not isinstance(made, list | tuple):
        return []
    return [leaf for member in made for leaf in leaves(member)]
