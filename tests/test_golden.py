"""Losses of a tiny real run, to the digit: a change of any number must be meant.

Changing them needs a line under "Numbers changed" in the changelog and a bumped ``version`` of the
component that changed. To write them anew: ``PDX_WRITE_GOLDEN=1 pytest tests/test_golden.py``.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pdx.config import Run
from pdx.env import Env
from pdx.execute import execute

GOLDEN = Path(__file__).parent / "golden" / "losses.json"
RUNS = {
    "none": ["loss=none"],
    "forward_kl, bucket": ["loss=forward_kl", "signal.tail=bucket"],
    "soft_ce, renormalize at 2": [
        "loss=soft_ce",
        "signal=topp_topk",
        "signal.top_k=8",
        "temperature.value=2.0",
    ],
    "mse, full": ["loss=mse", "signal=full"],
}
LEARNS = ["data.order=1", "optim.peak_lr=0.02", "teacher.peak_lr=0.02"]
# none that counts tokens (a calibration error, an agreement): the last bit moves a token to another
# bin, and one of 4,096 tokens is more than the tolerance
METRICS = ("val/loss", "test/loss", "train/loss", "val/teacher_kl", "val/bits_per_byte")


def test_losses_are_golden(tiny: Callable[..., tuple[Run, Env]]):
    measured = {}
    for name, overrides in RUNS.items():
        result = execute(*tiny(*LEARNS, *overrides), quiet=True)
        measured[name] = {key: result["metrics"][key] for key in METRICS}
    if os.environ.get("PDX_WRITE_GOLDEN"):
        GOLDEN.write_text(json.dumps(measured, indent=1) + "\n")
    golden = json.loads(GOLDEN.read_text())
    assert golden.keys() == measured.keys()
    for name, metrics in golden.items():
        # other processors sum in another order: far below any change of the mathematics
        assert measured[name] == pytest.approx(metrics, rel=2e-4, abs=2e-5), name
