"""An image as a data set of coordinates and colours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from actsearch.data.goal import pixels
from actsearch.data.source import Source
from actsearch.errors import ActSearchError, unknown


def image(picture: str = "china", size: int = 128) -> Source:
    """Implicit fitting of one of scikit-learn's sample images, by PSNR. x: (n, 2) the row and the column of a pixel,
    from -1 to 1; y: (n, 3) its red, green and blue, from 0 to 1.

    size: pixels of the longer side; each is the mean over the area that it covers. A fifth of them, drawn once, tests.
    """
    from sklearn.datasets import load_sample_images

    images = load_sample_images()
    known = [Path(file).stem for file in images.filenames]
    if picture not in known:
        raise unknown("picture in data.picture:", picture, known)
    whole = torch.tensor(images.images[known.index(picture)]).permute(2, 0, 1)[None].float() / 255
    longest = max(whole.shape[2:])
    if not isinstance(size, int) or isinstance(size, bool) or not 8 <= size <= longest:
        raise ActSearchError(f"data.size={size}: write a whole number of pixels from 8 to {longest}.")
    height, width = (round(side * size / longest) for side in whole.shape[2:])
    y = F.interpolate(whole, (height, width), mode="area")[0].flatten(1).T.contiguous()
    rows, columns = (torch.linspace(-1, 1, n) for n in (height, width))
    x = torch.cartesian_prod(rows, columns)
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(x)))
    pool, held_out = order[len(order) // 5 :], order[: len(order) // 5]
    return Source(x[pool], y[pool], lambda: (x[held_out], y[held_out]), goal=pixels(y[pool]))
