"""`CompressedRows` behaves like a dictionary for any sequence of operations."""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bg_pipeline.state.compressed_rows import BLOCK_LINES, CACHED_BLOCKS, CompressedRows

Step = tuple[str, int, bytes]
BLOCKS = CACHED_BLOCKS + 3
steps = st.tuples(
    st.sampled_from(["set", "delete", "get"]),
    st.integers(0, BLOCK_LINES * BLOCKS),
    st.binary(max_size=9).filter(lambda line: b"\n" not in line),
)


def filled(count: int = BLOCK_LINES * BLOCKS) -> dict[str, bytes]:
    return {str(number): f"line {number}".encode() for number in range(count)}


@given(st.lists(steps, max_size=200))
def test_lines_are_set_read_and_deleted_as_in_a_dictionary(some: Sequence[Step]) -> None:
    wanted = filled()
    lines = CompressedRows()
    lines.update(wanted)
    for kind, number, line in some:
        name = str(number)
        if kind == "set":
            wanted[name] = lines[name] = line
        elif kind == "delete":
            assert lines.pop(name, None) == wanted.pop(name, None)
        else:
            assert lines.get(name) == wanted.get(name)
    assert list(lines.items()) == list(wanted.items())
    assert len(lines) == len(wanted)


@pytest.mark.parametrize("count", [0, 1, BLOCK_LINES - 1, BLOCK_LINES, BLOCK_LINES + 1])
def test_exactly_full_blocks_lose_nothing(count: int) -> None:
    lines = CompressedRows()
    lines.update(filled(count))
    assert dict(lines) == filled(count)


def test_empty_lines_are_kept() -> None:
    lines = CompressedRows()
    lines.update(dict.fromkeys(filled(), b""))
    assert set(lines.values()) == {b""}
    assert len(lines) == BLOCK_LINES * BLOCKS


def test_threads_read_while_one_writes() -> None:
    lines, wanted = CompressedRows(), filled()
    lines.update(wanted)
    writing = threading.Event()

    def read(start: int) -> bool:
        writing.wait()
        order = [*range(start, len(wanted), 7), *range(start)]
        return all(lines[str(number)] == wanted[str(number)] for number in order)

    with ThreadPoolExecutor(4) as pool:
        readers = [pool.submit(read, start) for start in (0, 100, 200, 300)]
        writing.set()
        for name, line in wanted.items():
            lines[name] = line
        assert all(reader.result() for reader in readers)
    assert dict(lines) == wanted


def test_similar_lines_take_a_fifth_of_their_size() -> None:
    wanted = {f"{n}.jpg": b'{"image":"%d.jpg","status":"Succeeded","cause":""}' % n * 20 for n in range(640)}
    lines = CompressedRows()
    lines.update(wanted)
    assert sum(map(len, lines._compressed)) < sum(map(len, wanted.values())) / 5
