"""Planes of bits: fields of one width, fields of many widths, and unary numbers, many at once.

Bits lie from the least significant bit of byte 0 upwards, as in DEFLATE. Every plane ends on a
whole byte; what is left over is zero.
"""

import numpy as np

WIDEST = 32  # of a field


def width_of(largest: int) -> int:
    """Bits that hold every number from 0 to ``largest``."""
    return int(largest).bit_length()


def num_bytes(num_bits: int) -> int:
    """Bytes of a plane of so many bits."""
    return -(-num_bits // 8)


def pack_fixed(values_E: np.ndarray, width: int) -> bytes:
    """Fields of ``width`` bits, one after the other."""
    return pack_fields(values_E, np.full(len(values_E), width, np.int64))


def unpack_fixed(plane: memoryview, width: int, count: int) -> np.ndarray:
    """The fields that ``pack_fixed`` wrote, int32 or, above 25 bits, int64 [count].

    Eight fields fill ``width`` whole bytes, so that fields 0, 8, 16, ... lie a constant stride
    apart and are read without a gather.
    """
    if not width or not count:
        return np.zeros(count, np.int32)
    eights = -(-count // 8)
    padded = np.zeros(eights * width + 8, np.uint8)
    padded[: num_bytes(count * width)] = np.frombuffer(plane, np.uint8)
    word = np.dtype("<u4" if width <= 25 else "<u8")
    out = np.empty((8, eights), word)
    for j in range(8):
        byte, shift = divmod(j * width, 8)
        words = np.ndarray(eights, word, padded.data, byte, (width,))
        np.right_shift(words, word.type(shift), out=out[j])
    out &= word.type((1 << width) - 1)
    fields = out.T.reshape(-1)[:count]
    return fields.view(np.int32) if word == "<u4" else fields.view(np.int64)


def pack_fields(values_E: np.ndarray, widths_E: np.ndarray) -> bytes:
    """Fields of their own widths, up to ``WIDEST`` bits, one after the other."""
    ends_E = np.cumsum(widths_E, dtype=np.int64)
    if not len(ends_E):
        return b""
    starts_E = ends_E - widths_E
    shifted_E = values_E.astype(np.uint64) << (starts_E & 31).astype(np.uint64)
    word_E = starts_E >> 5
    # Fields do not overlap: adding them is putting them side by side. float64 holds 53 bits.
    size = int(ends_E[-1] >> 5) + 2
    low = np.bincount(word_E, (shifted_E & np.uint64(0xFFFFFFFF)).astype(np.float64), size)
    high = np.bincount(word_E + 1, (shifted_E >> np.uint64(32)).astype(np.float64), size + 1)
    words = (low + high[:size]).astype("<u4")
    return words.tobytes()[: num_bytes(int(ends_E[-1]))]


def unpack_fields(plane: memoryview, widths_E: np.ndarray) -> np.ndarray:
    """The fields that ``pack_fields`` wrote; what lies above a field's width is not cut off.

    Returns:
        uint32 [E], or uint64 where a field and its shift may pass 32 bits. The caller masks: it
        often splits a field in two at once.
    """
    starts_E = np.cumsum(widths_E, dtype=np.int32 if len(plane) < 2**28 else np.int64)
    starts_E -= widths_E
    padded = np.zeros(len(plane) + 8, np.uint8)
    padded[: len(plane)] = np.frombuffer(plane, np.uint8)
    narrow = not len(widths_E) or int(widths_E.max()) <= 25
    word = "<u4" if narrow else "<u8"
    words = np.ndarray(len(plane) + 1, word, padded.data, 0, (1,))
    return words.take(starts_E >> 3) >> (starts_E & 7).astype(words.dtype)


def pack_unary(values_E: np.ndarray) -> bytes:
    """Each number as so many zeros and a one."""
    ones_E = np.cumsum(values_E, dtype=np.int64) + np.arange(len(values_E))
    bits = np.zeros(int(ones_E[-1]) + 1 if len(ones_E) else 0, np.uint8)
    bits[ones_E] = 1
    return np.packbits(bits, bitorder="little").tobytes()


def ones_of(plane: memoryview) -> np.ndarray:
    """Where the ones of a unary plane lie, int32 [E]."""
    bits = np.unpackbits(np.frombuffer(plane, np.uint8), bitorder="little")
    return np.flatnonzero(bits.view(bool)).astype(np.int32)


def unpack_unary(plane: memoryview) -> np.ndarray:
    """The numbers that ``pack_unary`` wrote, int32 [E]."""
    ones_E = ones_of(plane)
    values_E = ones_E.copy()
    values_E[1:] -= ones_E[:-1] + np.int32(1)
    return values_E
