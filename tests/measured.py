"""What the tests of evaluations share: a small run's settings, and positions in plain Python."""

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from pdx import evaluate
from pdx.data import Batch, Windows
from pdx.shared import Shared

SETTINGS = ["teacher.init_std=0.3", "teacher.num_tokens=4096", "student.init_std=0.3"]
SETTINGS += ["eval.num_tokens_teacher=1300", "data.num_tokens_val=2048"]  # 20 windows of 32


@pytest.fixture
def student(shared: Shared) -> Any:
    return shared.run.student.init(32, 64, seed=0).train()


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several batches, the last one short, and chunks that do not divide them."""
    monkeypatch.setattr(evaluate, "EVAL_BATCH_TOKENS", 6 * 64)
    monkeypatch.setattr(evaluate, "cached_size", lambda vocab_size, device: 100)


class Masked:
    """Windows of which only every third target counts."""

    def __init__(self, windows: Windows) -> None:
        self.windows, self.seq_len, self.num_windows = windows, windows.seq_len, windows.num_windows
        self.window_bytes, self.num_windows_in = windows.window_bytes, windows.num_windows_in

    def batch(self, index_B: np.ndarray) -> Batch:
        batch = self.windows.batch(index_B)
        keep = torch.arange(64) % 3 == 1
        return batch._replace(mask_BL=batch.mask_BL & keep)


class Row(NamedTuple):
    """One valid position in plain Python."""

    student: list[float]
    teacher: list[float]
    target: int


def logprobs(model: Any, tokens: torch.Tensor) -> list[list[list[float]]]:
    with torch.no_grad():
        return model(tokens).logits.double().log_softmax(-1).tolist()


def rows(windows: Any, count: int, model: Any, teacher: Any) -> list[Row]:
    batch = windows.batch(np.arange(count))
    ours, theirs = logprobs(model, batch.tokens_BL), logprobs(teacher, batch.tokens_BL)
    targets, mask = batch.targets_BL.tolist(), batch.mask_BL.tolist()
    return [
        Row(ours[b][i], theirs[b][i], targets[b][i])
        for b in range(count)
        for i in range(64)
        if mask[b][i]
    ]
