"""Random draws that depend on the seed and the position alone: not on batches, order or device."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as int64
_MIX = ((30, -4658895280553007687), (27, -7723592293110705685), (31, 1))


def _mix(x: Tensor) -> Tensor:
    """The finalizer of SplitMix64 (Steele, Lea, Flood 2014), on int64 that wraps."""
    for shift, factor in _MIX:
        x = (x ^ ((x >> shift) & ((1 << (64 - shift)) - 1))) * factor
    return x


def _wrapped(x: int) -> int:
    """As an int64 would hold it."""
    return (x + 2**63) % 2**64 - 2**63


def uniforms(offset_N: Tensor, num: int, seed: int) -> Tensor:
    """``num`` numbers in [0, 1) for each position, float64 [N, num].

    Number j of a position is the j-th output of SplitMix64 started at a hash of seed and position,
    52 bits of it: whoever asks, and for how many at once, reads the same.
    """
    start_N = _mix(_mix(offset_N.long() + _wrapped(seed * _GOLDEN)) + seed)
    steps = torch.arange(1, num + 1, device=offset_N.device) * _GOLDEN
    mixed_NJ = _mix(start_N[:, None] + steps)
    return ((mixed_NJ >> 12) & ((1 << 52) - 1)).double() * 2.0**-52


def masses(logits_CV: Tensor) -> Tensor:
    """Softmax(logits) but for its normaliser: each row's largest is 1."""
    return (logits_CV - logits_CV.amax(-1, keepdim=True)).exp()


def draw(logits_CV: Tensor, offset_C: Tensor, num_draws: int, seed: int) -> Tensor:
    """Token ids drawn from softmax(logits), with replacement, in order: int32 [C, num_draws]."""
    return draw_by(masses(logits_CV), offset_C, num_draws, seed)


def draw_by(mass_CV: Tensor, offset_C: Tensor, num_draws: int, seed: int) -> Tensor:
    """``draw`` from what ``masses`` made of the logits.

    By the inverse of the cumulative distribution over ids in two steps: sums of blocks, then one
    block. A draw is monotone in its uniform number, so that sorted draws and sorted numbers
    belong together: ``first_draws`` gets the order back from counts.
    """
    num_rows, vocab_size = mass_CV.shape
    width = 1 << (int(vocab_size).bit_length() // 2)
    if vocab_size % width:
        mass_CV = F.pad(mass_CV, (0, -vocab_size % width))
    blocks_CMW = mass_CV.view(num_rows, -1, width)
    mass_CM = blocks_CMW.sum(-1).double()
    ends_CM = mass_CM.cumsum(-1)
    aim_CJ = uniforms(offset_C, num_draws, seed) * ends_CM[:, -1:]
    block_CJ = torch.searchsorted(ends_CM, aim_CJ, right=True)
    within_CJ = aim_CJ - (ends_CM - mass_CM).gather(-1, block_CJ)
    first_C1 = torch.arange(num_rows, device=mass_CV.device)[:, None] * blocks_CMW.shape[1]
    inner_CJW = blocks_CMW.flatten(0, 1)[first_C1 + block_CJ].cumsum(-1)
    # Rounding may not step out of the block, nor onto a token of no mass before or after it.
    last_CJ = inner_CJW[..., -1]
    within_CJ = within_CJ.float().clamp(min=0.0)
    within_CJ = torch.minimum(within_CJ, torch.nextafter(last_CJ, torch.zeros_like(last_CJ)))
    place_CJ = torch.searchsorted(inner_CJW, within_CJ[..., None], right=True)[..., 0]
    return (block_CJ * width + place_CJ).to(torch.int32)


def merge(ids_NJ: Tensor) -> tuple[Tensor, Tensor]:
    """Draws -> distinct ids and their counts, [N, K] each; places left over count 0.

    Ids rise within a row; what is left over repeats the row's first.
    """
    sorted_NJ = ids_NJ.long().sort(-1).values
    new_NJ = torch.ones_like(sorted_NJ, dtype=torch.bool)
    new_NJ[:, 1:] = sorted_NJ[:, 1:] != sorted_NJ[:, :-1]
    place_NJ = new_NJ.cumsum(-1) - 1
    widest = int(place_NJ.max()) + 1
    counts_NK = torch.zeros(len(ids_NJ), widest, dtype=torch.int64, device=ids_NJ.device)
    counts_NK.scatter_add_(-1, place_NJ, torch.ones_like(place_NJ))
    ids_NK = sorted_NJ[:, :1].repeat(1, widest).scatter(-1, place_NJ, sorted_NJ)
    return ids_NK, counts_NK


def first_draws(
    ids_E: np.ndarray,
    counts_E: np.ndarray,
    num_N: np.ndarray,
    offset_N: np.ndarray,
    num_draws: int,
    num_first: int,
    seed: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of rows of counts, what the first ``num_first`` of their ``num_draws`` draws were.

    The draws were monotone in numbers that the seed gives again, so the order was never lost.

    Returns:
        ids, counts and entries per row, as they came in, rows sorted by id.
    """
    rows_E = np.repeat(np.arange(len(num_N)), num_N)
    order_E = np.lexsort((ids_E, rows_E))
    ends_E = counts_E[order_E].cumsum()  # every row adds num_draws
    numbers_NJ = uniforms(torch.from_numpy(offset_N), num_draws, seed).numpy()
    place_NJ = numbers_NJ.argsort(1).argsort(1)[:, :num_first]
    place_NJ = place_NJ + np.arange(len(num_N))[:, None] * num_draws
    entry = np.searchsorted(ends_E, place_NJ.reshape(-1), side="right")
    kept_E = np.bincount(entry, minlength=len(ids_E))
    seen_E = kept_E > 0
    return (
        ids_E[order_E][seen_E],
        kept_E[seen_E],
        np.bincount(rows_E[seen_E], minlength=len(num_N)),
    )
