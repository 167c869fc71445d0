"""Connected pieces of a mask, with numpy alone."""

import numpy as np
from numpy.typing import NDArray


def components(inside: NDArray[np.bool_]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Each pixel's piece number (0 = outside, 1 .. n) and the pixel count of each number, outside included.

    Pixels that touch by a side or a corner are of one piece. ``inside`` is (height, width); a 512-pixel
    mask takes some milliseconds, whatever it looks like.
    """
    starts = inside.copy()
    starts[:, 1:] &= ~inside[:, :-1]
    # Runs along rows are numbered first: there are far fewer of them than pixels to join.
    run = np.where(inside, np.cumsum(starts.ravel()).reshape(inside.shape), 0)
    width = inside.shape[1]
    many = int(run.max(initial=0)) + 1
    joins = []
    for shift in (-1, 0, 1):
        above = run[:-1, max(0, -shift) : width - max(0, shift)]
        below = run[1:, max(0, shift) : width - max(0, -shift)]
        both = (above > 0) & (below > 0)
        # One number for a pair: numpy finds unique numbers far faster than unique pairs.
        joins.append(np.unique(above[both] * many + below[both]))
    one, other = np.divmod(np.concatenate(joins), many)

    root = np.arange(many)
    while (root[one] != root[other]).any():
        lowest = np.minimum(root[one], root[other])
        np.minimum.at(root, root[one], lowest)
        np.minimum.at(root, root[other], lowest)
        while (root[root] != root).any():
            root = root[root]
    _, number = np.unique(root, return_inverse=True)
    labels = number[run]
    return labels, np.bincount(labels.ravel(), minlength=int(number.max()) + 1)
