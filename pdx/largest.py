"""The largest logits of a row, in two looks instead of one sort of all."""

import torch
from torch import Tensor


def largest(logits_CV: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """The ``top_k`` largest values of each row, falling, and their ids: [C, K] each.

    What ``torch.topk`` gives, in a quarter of its time on 128,256 logits: the top K lie within the
    K blocks whose maxima are largest, so a top-k of maxima and one of those blocks is enough. Of
    equal values, which ids are named is as free as it is there.
    """
    vocab_size = logits_CV.shape[-1]
    width = max(1, round((vocab_size / top_k) ** 0.5))  # both looks are then as long
    num_blocks = vocab_size // width
    if width == 1 or num_blocks < top_k:
        found = logits_CV.topk(top_k, dim=-1)
        return found.values, found.indices
    end = width * num_blocks
    # Block m holds ids m, m + M, m + 2M, ...: maxima are then taken of whole vectors.
    blocks_CWM = logits_CV[:, :end].unflatten(-1, (width, num_blocks))
    block_CK = blocks_CWM.amax(1).topk(top_k, dim=-1, sorted=False).indices
    steps_W1 = torch.arange(0, end, num_blocks, device=logits_CV.device)[:, None]
    ids_CE = (block_CK[:, None, :] + steps_W1).flatten(1)
    if end < vocab_size:
        last = torch.arange(end, vocab_size, device=logits_CV.device)
        ids_CE = torch.cat([ids_CE, last.expand(len(ids_CE), -1)], -1)
    values_CK, place_CK = logits_CV.gather(-1, ids_CE).topk(top_k, dim=-1)
    return values_CK, ids_CE.gather(-1, place_CK)


def argmax(logits_CV: Tensor) -> Tensor:
    """The first id of each row's largest value, [C]: ``torch.argmax`` in a fifth of a CPU's time.

    A maximum of values takes a tenth of the time of one that says where: one of blocks is enough
    to know where to look.
    """
    vocab_size = logits_CV.shape[-1]
    width = 1 << (vocab_size.bit_length() // 2)
    end = vocab_size - vocab_size % width
    blocks_CMW = logits_CV[:, :end].unflatten(-1, (-1, width))
    maxima_CM = blocks_CMW.amax(-1)
    block_C = maxima_CM.argmax(-1)
    rows_C = torch.arange(len(block_C), device=logits_CV.device)
    first_C = block_C * width + blocks_CMW[rows_C, block_C].argmax(-1)
    if end == vocab_size:
        return first_C
    last_CE = logits_CV[:, end:]
    is_last_C = last_CE.amax(-1) > maxima_CM.amax(-1)
    return torch.where(is_last_C, end + last_CE.argmax(-1), first_C)
