"""The two looks against one sort of everything."""

import pytest
import torch

from pdx.largest import argmax, largest


@pytest.mark.parametrize("vocab_size", [1, 2, 7, 64, 1000, 4096, 5003, 16_384])
@pytest.mark.parametrize("top_k", [1, 2, 12, 50, 256])
@pytest.mark.parametrize("kind", ["distinct", "ties", "mostly nothing"])
def test_what_topk_gives(vocab_size: int, top_k: int, kind: str):
    top_k = min(top_k, vocab_size)
    logits_CV = torch.randn(9, vocab_size, generator=torch.Generator().manual_seed(vocab_size))
    if kind == "ties":  # a bfloat16 teacher's
        logits_CV = logits_CV.mul(4).round()
    elif kind == "mostly nothing":  # a head cut out, or padding
        logits_CV[:, torch.arange(vocab_size) % 3 != 0] = -torch.inf
    values_CK, ids_CK = largest(logits_CV, top_k)
    wanted = logits_CV.topk(top_k)
    assert torch.equal(values_CK, wanted.values)
    assert torch.equal(logits_CV.gather(-1, ids_CK), values_CK)
    assert all(len(set(row)) == top_k for row in ids_CK.tolist())
    if kind == "distinct":
        assert torch.equal(ids_CK, wanted.indices)


@pytest.mark.parametrize("vocab_size", [1, 2, 7, 64, 1000, 4096, 5003, 16_384])
@pytest.mark.parametrize("kind", ["distinct", "ties", "the last", "nothing"])
def test_what_argmax_gives(vocab_size: int, kind: str):
    logits_CV = torch.randn(40, vocab_size, generator=torch.Generator().manual_seed(vocab_size))
    if kind == "ties":
        logits_CV = logits_CV.mul(4).round()
    elif kind == "the last":  # alone, and as large as one before it
        logits_CV[:, -1] = 9.0
        logits_CV[::2, vocab_size // 3] = 9.0
    elif kind == "nothing":
        logits_CV[:] = -torch.inf
    assert torch.equal(argmax(logits_CV), logits_CV.argmax(-1))
    part_CV = logits_CV[::3]  # rows apart in memory
    assert torch.equal(argmax(part_CV), part_CV.argmax(-1))
