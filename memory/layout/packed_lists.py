"""Packed numbers (`memory/layout/blobs.py`) as Arrow lists, and back, without a Python object for each number."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

from perdure.memory.errors import RuntimeFailure

if TYPE_CHECKING:
    import pyarrow as pa


def unpacked_lists(blobs: Sequence[bytes], kind: pa.DataType) -> pa.Array:
    """Blobs of four-byte numbers as lists of the type `kind`. Raises `RuntimeFailure` if one ends within a number."""
    import pyarrow as pa

    offsets = [0, *accumulate(len(blob) // 4 for blob in blobs)]
    data = b"".join(blobs)
    if len(data) != 4 * offsets[-1]:
        raise RuntimeFailure("token ids or log-probs of a turn end within a number: `perdure store check` names it; restore a backup")
    numbers = pa.Array.from_buffers(kind.value_type, offsets[-1], [None, pa.py_buffer(data)])
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), numbers)


def packed_lists(lists: pa.ListArray) -> list[bytes]:
    """Lists of four-byte numbers as packed blobs."""
    offsets, numbers = lists.offsets.to_pylist(), lists.values
    if not len(numbers):
        return [b""] * len(lists)
    data, start = memoryview(numbers.buffers()[1]), numbers.offset
    return [bytes(data[4 * (start + begin) : 4 * (start + end)]) for begin, end in pairwise(offsets)]
