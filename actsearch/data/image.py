"""An image as a data set: from the coordinates of a pixel, predict its colour."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from actsearch.data.goal import pixels
from actsearch.data.source import Source
from actsearch.errors import unknown, whole


def image(picture: str = "china", size: int = 128) -> Source:
    """One of scikit-learn's sample images as an implicit representation, judged by PSNR.

    x: (n, 2), row and column of a pixel, each from -1 to 1. y: (n, 3), its red, green and blue, each from 0 to 1.
    picture: the image's name. size: to how many pixels the longer side is reduced; a pixel is the mean over the area
    that it covers. A fixed fifth of the pixels is the test set.
    Raises ActSearchError for a picture or a size that does not exist.
    """
    from sklearn.datasets import load_sample_images

    images = load_sample_images()
    known = [Path(file).stem for file in images.filenames]
    if picture not in known:
        raise unknown("picture in data.picture:", picture, known)
    pixels_of = torch.tensor(images.images[known.index(picture)]).permute(2, 0, 1)[None].float() / 255
    longest = max(pixels_of.shape[2:])
    whole("data.size", size, 8, longest)
    height, width = (round(side * size / longest) for side in pixels_of.shape[2:])
    y = F.interpolate(pixels_of, (height, width), mode="area")[0].flatten(1).T.contiguous()
    rows, columns = (torch.linspace(-1, 1, n) for n in (height, width))
    x = torch.cartesian_prod(rows, columns)
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(x)))
    pool, held_out = order[len(order) // 5 :], order[: len(order) // 5]
    return Source(x[pool], y[pool], lambda: (x[held_out], y[held_out]), goal=pixels(y[pool]))
