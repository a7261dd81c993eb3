"""Read the header of a GGUF file with every length checked against the file before anything is allocated.

The package gguf trusts the lengths of a file: an array of 2^60 entries takes memory without end. It is used here for
its table of tensor types and for dequantisation. Source: the specification of GGUF, versions 2 and 3.
"""

import itertools
import math
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

SCALARS = ("<B", "<b", "<H", "<h", "<I", "<i", "<f", "<?", "", "", "<Q", "<q", "<d")  # by number of type
STRING, ARRAY = 8, 9
LARGEST_ARRAY = 2**24  # entries of a metadata array; vocabularies have up to 2^18, merges up to 2^20
LARGEST_RANK = 4
Sizes = Mapping[int, tuple[int, int]]  # type of a tensor -> entries and bytes of a block


class Entry(NamedTuple):
    """A tensor of the file: number of its type, shape (slowest axis first), and its bytes as rows of blocks."""

    kind: int
    shape: tuple[int, ...]
    data: np.ndarray


class _Cursor:
    """A position in the bytes of a file, which no read may leave."""

    def __init__(self, content: np.ndarray) -> None:
        self._content, self.position = content, 0

    def take(self, size: int) -> bytes:
        """Return the next `size` bytes."""
        if not 0 <= size <= len(self._content) - self.position:
            raise ValueError(f"at byte {self.position} it states {size} bytes, but the file has {len(self._content)}")
        self.position += size
        return self._content[self.position - size : self.position].tobytes()

    def number(self, kind: str) -> Any:
        """Return the next number of a format of `struct`."""
        return struct.unpack(kind, self.take(struct.calcsize(kind)))[0]

    def string(self) -> str:
        """Return the next string."""
        return self.take(self.number("<Q")).decode()

    def value(self, kind: int) -> Any:
        """Return the next value of a type."""
        if kind == STRING:
            return self.string()
        if kind == ARRAY:
            return self._array(self.number("<I"), self.number("<Q"))
        return self.number(_format(kind))

    def _array(self, kind: int, count: int) -> list[Any]:
        if count > LARGEST_ARRAY:
            raise ValueError(f"an array of {count} entries")
        if kind == STRING:
            return [self.string() for _ in range(count)]
        name = _format(kind)  # arrays of arrays are in no known file
        return np.frombuffer(self.take(count * struct.calcsize(name)), np.dtype(name)).tolist()


def _format(kind: int) -> str:
    name = SCALARS[kind] if kind < len(SCALARS) else ""
    if not name:
        raise ValueError(f"a value of the unknown type {kind}")
    return name


def read(path: Path, sizes: Sizes) -> tuple[dict[str, Any], dict[str, Entry]]:
    """Read metadata and tensors; data stay in the file until they are used.

    Args:
        path: a regular file.
        sizes: entries and bytes of a block, by number of tensor type.

    Returns:
        Metadata by name, and tensors by name.

    Raises:
        ValueError: The file is damaged; the message says where.
    """
    content = np.memmap(path, mode="r")
    cursor = _Cursor(content)
    if cursor.take(4) != b"GGUF":
        raise ValueError("it does not begin with GGUF")
    if (version := cursor.number("<I")) not in (2, 3):
        raise ValueError(f"version {version}; only 2 and 3 in little-endian order are read")
    tensor_count, field_count = cursor.number("<Q"), cursor.number("<Q")
    # Each entry takes bytes, so that a wrong count ends with the file.
    fields = _unique(field_count, cursor, lambda: cursor.value(cursor.number("<I")))
    headers = _unique(tensor_count, cursor, lambda: _header(cursor))
    alignment = fields.get("general.alignment", 32)
    if not isinstance(alignment, int) or not 0 < alignment <= 2**20 or alignment & (alignment - 1):
        raise ValueError(f"general.alignment={alignment!r}: must be a power of two")
    begin = -(-cursor.position // alignment) * alignment
    return fields, _tensors(content, begin, alignment, headers, sizes)


def _unique(count: int, cursor: _Cursor, value: Callable[[], Any]) -> dict[str, Any]:
    """The next entries, each a name and a value."""
    entries: dict[str, Any] = {}
    for _ in range(count):
        name = cursor.string()
        if name in entries:
            raise ValueError(f"the name {name!r} twice")
        entries[name] = value()
    return entries


def _header(cursor: _Cursor) -> tuple[tuple[int, ...], int, int]:
    """Shape (fastest axis first), type and offset of the next tensor."""
    rank = cursor.number("<I")
    if not 1 <= rank <= LARGEST_RANK:
        raise ValueError(f"a tensor with {rank} axes")
    return struct.unpack(f"<{rank}Q", cursor.take(8 * rank)), cursor.number("<I"), cursor.number("<Q")


def _tensors(
    content: np.ndarray, begin: int, alignment: int, headers: Mapping[str, Any], sizes: Sizes
) -> dict[str, Entry]:
    """The tensors of the headers; refuses those that lie outside the file or overlap."""
    tensors, spans = {}, []
    for name, (shape, kind, offset) in headers.items():
        if kind not in sizes:
            raise ValueError(f"tensor {name!r} has the unknown type {kind}")
        entries, size = sizes[kind]
        row, rest = shape[0] // entries * size, shape[1:][::-1]
        start, stop = begin + offset, begin + offset + row * math.prod(rest)
        if 0 in shape or shape[0] % entries or offset % alignment or stop > len(content):
            raise ValueError(f"tensor {name!r} of shape {shape[::-1]} does not lie in the file at {offset}")
        spans.append((start, stop, name))
        tensors[name] = Entry(kind, shape[::-1], content[start:stop].reshape(*rest, row))
    for (_, stop, name), (start, _, other) in itertools.pairwise(sorted(spans)):
        if start < stop:
            raise ValueError(f"tensors {name!r} and {other!r} overlap")
    return tensors
