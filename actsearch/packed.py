"""Numbers of many test examples as a short text, for a storage: bits where they are yes or no, else float32."""

from __future__ import annotations

import base64
import zlib

import numpy as np

MOST_BITS = 2**18
MOST_NUMBERS = 2**13
GROUPED = 0  # the seed of the groups, which must be the same for all runs


def pack(numbers: np.ndarray) -> str:
    """numbers: (n,), one for each example, in the same order for all runs that will be compared.

    Beyond 262,144 bits or 8,192 other numbers examples are put into random groups of equal size, and the groups' means
    are kept: their mean has the same sampling error.
    """
    bits = bool(np.isin(numbers, (0, 1)).all())
    if len(numbers) > (MOST_BITS if bits else MOST_NUMBERS):
        numbers, bits = _grouped(numbers), False
    data = np.packbits(numbers.astype(bool)) if bits else numbers.astype(np.float32)
    text = base64.b85encode(zlib.compress(data.tobytes(), 9)).decode()
    return f"{'bits' if bits else 'float32'} {len(numbers)} {text}"


def unpack(text: str) -> np.ndarray:
    """(n,): the numbers or the groups' means, bool or float32."""
    kind, n, data = text.split(" ")
    raw = np.frombuffer(zlib.decompress(base64.b85decode(data)), np.uint8)
    return np.unpackbits(raw, count=int(n)).astype(bool) if kind == "bits" else raw.view(np.float32)


def _grouped(numbers: np.ndarray) -> np.ndarray:
    n_groups = len(numbers) // -(-len(numbers) // MOST_NUMBERS)
    group = np.random.default_rng(GROUPED).permutation(len(numbers)) % n_groups
    # a few groups have one example more, whose mean would not be that of all
    return np.bincount(group, numbers, n_groups) * n_groups / len(numbers)
