"""Compiled loops over the bits of rows, which NumPy could only make by many passes.

A plane is an array of 32-bit words, padded by ``bits.words_of``. All loops are in this one file: a
compiled loop is cached beside it, and is made anew where this file, not another, has changed.
None of them reads outside of a plane, whatever the plane says.
"""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

WORD = 32
LOW = (1 << WORD) - 1
# The place of the only bit of a 64-bit number, by the top six bits of its product with a de Bruijn
# sequence: Leiserson, Prokop and Randall 1998.
DE_BRUIJN = 0x03F79D71B4CB0A89
PLACES = np.zeros(64, np.int64)
for _place in range(64):
    PLACES[(DE_BRUIJN << _place) >> 58 & 63] = _place


def compiled(loop: Callable[..., Any]) -> Any:
    """The loop in machine code, once a machine, and run beside other threads' Python."""
    try:
        return numba.njit(loop, cache=True, nogil=True)
    except RuntimeError:  # neither this folder nor the user's cache can be written: once a process
        return numba.njit(loop, nogil=True)


# ---- bits ----------------------------------------------------------------------------------------


@compiled
def window(words: np.ndarray, bit: int) -> Any:
    """32 bits from ``bit`` on, and some more above them; zeros behind the plane."""
    word = bit >> 5
    if word + 1 >= len(words):
        return 0
    both = np.int64(words[np.uintp(word)]) | (np.int64(words[np.uintp(word + 1)]) << 32)
    return both >> (bit & 31)


@compiled
def next_one(words: np.ndarray, word: int, left: Any) -> tuple[int, int, Any]:
    """The place of the next one, then where to go on: a word, and what of it was not given yet.

    To go on waits for one instruction; the place is worked out beside it.
    """
    while not left:
        word += 1
        if word >= len(words):
            return len(words) * WORD, word, 1
        left = np.int64(words[word])
    place = PLACES[np.uintp(((left & -left) * DE_BRUIJN) >> 58 & 63)]
    return word * WORD + place, word, left & (left - 1)


@compiled
def put(words: np.ndarray, bit: int, value: int) -> None:
    """A field of up to 32 bits onto zeros."""
    word, shift = bit >> 5, bit & 31
    both = value << shift
    words[word] |= np.uint32(both & LOW)
    words[word + 1] |= np.uint32((both >> 32) & LOW)


@compiled
def log2(value: int) -> int:
    """Floor of log2 of a positive integer."""
    place = 0
    while value >> (place + 1):
        place += 1
    return place


# ---- fields of one width -------------------------------------------------------------------------


@compiled
def pack_fixed(values_E: np.ndarray, width: int, words: np.ndarray) -> None:
    for e in range(len(values_E)):
        put(words, e * width, np.int64(values_E[e]))


@compiled
def unpack_fixed(words: np.ndarray, width: int, values_E: np.ndarray) -> None:
    mask = (1 << width) - 1
    for e in range(len(values_E)):
        values_E[e] = window(words, e * width) & mask


# ---- rows of counts ------------------------------------------------------------------------------


@compiled
def pack_counts(
    ranks_NJ: np.ndarray,
    ends: int,
    num_N: np.ndarray,
    histogram: np.ndarray,
    unary: np.ndarray,
    low: np.ndarray,
) -> tuple[int, int, int]:
    """Rows of sorted ranks; returns the bits of the three planes."""
    num_rows, num_draws = ranks_NJ.shape
    entry = at_unary = at_low = 0
    for n in range(num_rows):
        first, exponent = 0, 0
        while first < num_draws:
            rank = np.int64(ranks_NJ[n, first])
            last = first + 1
            while last < num_draws and ranks_NJ[n, last] == rank:
                last += 1
            while (rank + 1) >> (exponent + 1):  # ranks rise
                exponent += 1
            count = last - first
            of_count = log2(count)
            put(histogram, entry + n * ends + exponent, 1)
            put(unary, at_unary + of_count, 1)
            at_unary += of_count + 1
            rest = (rank + 1 - (1 << exponent)) | ((count - (1 << of_count)) << exponent)
            put(low, at_low, rest)
            at_low += exponent + of_count
            num_N[n] += 1
            entry += 1
            first = last
    return entry + num_rows * ends, at_unary, at_low


@compiled
def unpack_counts(
    num_N: np.ndarray,
    ends: int,
    histogram: np.ndarray,
    unary: np.ndarray,
    low: np.ndarray,
    ids_V: np.ndarray,
    ids_E: np.ndarray,
    counts_E: np.ndarray,
) -> None:
    """What ``pack_counts`` packed, ranks as the ids that have them."""
    word = word_unary = -1
    left = left_unary = at_low = entry = 0
    before = -1
    for n in range(len(num_N)):
        for _ in range(num_N[n]):
            place, word, left = next_one(histogram, word, left)
            exponent = min(max(place - entry - n * ends, 0), WORD)
            place, word_unary, left_unary = next_one(unary, word_unary, left_unary)
            of_count = min(place - before - 1, WORD)
            before = place
            field = window(low, at_low)
            at_low += exponent + of_count
            lead = (1 << exponent) - 1
            ids_E[entry] = ids_V[min((field & lead) + lead, len(ids_V) - 1)]
            lead = 1 << of_count
            counts_E[entry] = ((field >> exponent) & (lead - 1)) | lead
            entry += 1


# ---- rows of logits in steps ---------------------------------------------------------------------


@compiled
def pack_steps(
    ids_NK: np.ndarray,
    steps_NK: np.ndarray,
    num_N: np.ndarray,
    id_bits: int,
    shift: int,
    fixed: np.ndarray,
    unary: np.ndarray,
) -> tuple[int, int]:
    """The first ``num_N`` of each row, by rising steps; returns the bits of the two planes."""
    at = at_unary = 0
    for n in range(len(num_N)):
        before = 0
        for k in range(num_N[n]):
            gap: Any = np.int64(steps_NK[n, k]) - before
            before += gap
            put(fixed, at, np.int64(ids_NK[n, k]) | ((gap & ((1 << shift) - 1)) << id_bits))
            at += id_bits + shift
            put(unary, at_unary + (gap >> shift), 1)
            at_unary += (gap >> shift) + 1
    return at, at_unary


@compiled
def unpack_steps(
    num_N: np.ndarray,
    top_N: np.ndarray,
    id_bits: int,
    shift: int,
    step: np.float32,
    fixed: np.ndarray,
    unary: np.ndarray,
    ids_E: np.ndarray,
    logits_E: np.ndarray,
) -> None:
    """What ``pack_steps`` packed, as logits: ``step`` times the steps under the row's largest."""
    ids, rest = (1 << id_bits) - 1, (1 << shift) - 1
    word, left, before = -1, 0, -1
    at = entry = 0
    for n in range(len(num_N)):
        under = 0
        for k in range(num_N[n]):
            place, word, left = next_one(unary, word, left)
            field = window(fixed, at)
            at += id_bits + shift
            if k:  # a row's first gap is 0: zeros before it fill up the window before
                under += ((place - before - 1) << shift) | ((field >> id_bits) & rest)
            before = place
            ids_E[entry] = field & ids
            logits_E[entry] = top_N[n] + np.float32(under) * step
            entry += 1


# ---- rows of entries -----------------------------------------------------------------------------


@compiled
def join(
    ids_NK: np.ndarray,
    weights_NK: np.ndarray,
    more_ids_E: np.ndarray,
    more_weights_E: np.ndarray,
    more_N: np.ndarray,
    ids_E: np.ndarray,
    weights_E: np.ndarray,
) -> None:
    """To each row of K the more that it has: rows of K + more, one after the other."""
    num_rows, width = ids_NK.shape
    entry = more = 0
    for n in range(num_rows):
        for k in range(width):
            ids_E[entry + k] = ids_NK[n, k]
            weights_E[entry + k] = weights_NK[n, k]
        entry += width
        for k in range(more_N[n]):
            ids_E[entry + k] = more_ids_E[more + k]
            weights_E[entry + k] = more_weights_E[more + k]
        entry += more_N[n]
        more += more_N[n]


@compiled
def pad(
    ids_E: np.ndarray,
    weights_E: np.ndarray,
    num_N: np.ndarray,
    nothing: np.float32,
    ids_NK: np.ndarray,
    weights_NK: np.ndarray,
) -> None:
    """Rows of their own lengths to rows of one; a row's first id fills it."""
    entry = 0
    for n in range(len(num_N)):
        num = num_N[n]
        first = ids_E[entry] if num else 0
        ids_NK[n, :num] = ids_E[entry : entry + num]
        ids_NK[n, num:] = first
        weights_NK[n, :num] = weights_E[entry : entry + num]
        weights_NK[n, num:] = nothing
        entry += num
