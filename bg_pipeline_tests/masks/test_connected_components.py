"""Connected components, compared with a plain flood fill."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bg_pipeline.masks.connected_components import components


def flooded(inside: NDArray[np.bool_]) -> list[int]:
    """The piece sizes, smallest first, by walking."""
    left = {(int(y), int(x)) for y, x in zip(*np.nonzero(inside), strict=True)}
    sizes = []
    while left:
        waiting = [left.pop()]
        size = 0
        while waiting:
            y, x = waiting.pop()
            size += 1
            around = {(y + down, x + right) for down in (-1, 0, 1) for right in (-1, 0, 1)} & left
            left -= around
            waiting += around
        sizes.append(size)
    return sorted(sizes)


@settings(max_examples=150, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 25), st.integers(1, 25)),
    seed=st.integers(0, 2**32 - 1),
    density=st.floats(0, 1),
)
def test_components_are_those_of_a_flood_fill(shape: tuple[int, int], seed: int, density: float) -> None:
    inside = np.random.default_rng(seed).random(shape) < density
    numbers, counts = components(inside)
    assert sorted(counts[1:]) == flooded(inside)
    assert counts[0] == (~inside).sum()
    assert ((numbers > 0) == inside).all()
    assert (np.bincount(numbers.ravel(), minlength=len(counts)) == counts).all()


def test_a_spiral_is_one_component() -> None:
    inside = np.zeros((41, 41), bool)
    y, x, length, step = 20, 20, 2, (0, 1)
    while 0 <= y < 41 and 0 <= x < 41:
        for _ in range(length):
            if 0 <= y < 41 and 0 <= x < 41:
                inside[y, x] = True
            y, x = y + step[0], x + step[1]
        step, length = (step[1], -step[0]), length + 1
    assert len(components(inside)[1]) == 2
