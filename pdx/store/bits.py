"""Planes of bits, for the loops in ``pdx.store.kernels``, and fields of one width.

Bits lie from the least significant bit of byte 0 upwards, as in DEFLATE. Every plane ends on a
whole byte; what is left over is zero.
"""

import numpy as np

from pdx.store import kernels

PADDING = 8  # bytes: a field may be read, or written, across the end of its word


def width_of(largest: int) -> int:
    """Bits that hold every number from 0 to ``largest``."""
    return int(largest).bit_length()


def num_bytes(num_bits: int) -> int:
    """Bytes of a plane of so many bits."""
    return -(-num_bits // 8)


def empty(num_bits: int) -> np.ndarray:
    """Words to write at most so many bits into, all zero."""
    return np.zeros(num_bits // kernels.WORD + 2, np.uint32)


def plane_of(words: np.ndarray, num_bits: int) -> bytes:
    """The plane of the first ``num_bits`` that were written."""
    return words.tobytes()[: num_bytes(num_bits)]


def words_of(plane: memoryview) -> np.ndarray:
    """A plane as ``kernels`` reads it."""
    padded = np.zeros(-(-len(plane) // PADDING) * PADDING + PADDING, np.uint8)
    padded[: len(plane)] = np.frombuffer(plane, np.uint8)
    return padded.view(np.uint32)


def pack_fixed(values_E: np.ndarray, width: int) -> bytes:
    """Fields of ``width`` bits, up to 31, one after the other."""
    words = empty(len(values_E) * width)
    kernels.pack_fixed(values_E, width, words)
    return plane_of(words, len(values_E) * width)


def unpack_fixed(plane: memoryview, width: int, count: int) -> np.ndarray:
    """The fields that ``pack_fixed`` wrote, int32 [count]."""
    values_E = np.empty(count, np.int32)
    kernels.unpack_fixed(words_of(plane), width, values_E)
    return values_E
