"""Every control that docs/baselines.md names can be said, and is another run than the rest."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from pdx.config import Run, run_of
from pdx.facts import facts_of

Compose = Callable[..., Any]
PAGE = (Path(__file__).parents[1] / "docs" / "baselines.md").read_text()
# The second column: what is said in backquotes first.
SAID = [
    re.findall(r"`([^`]*)`", line.split("|")[2])[0] for line in PAGE.splitlines() if "? |" in line
]


def composed(compose_cfg: Compose, said: str) -> tuple[Run, Any]:
    return run_of(
        compose_cfg("train.num_tokens=100000", "teacher@eval_teacher=trained", *said.split())
    )


def test_the_page_is_read():
    assert len(SAID) == 10 and "routing=placebo" in SAID


@pytest.mark.parametrize("said", SAID)
def test_a_control_can_be_said(compose_cfg: Compose, said: str):
    run, env = composed(compose_cfg, said)
    facts = facts_of(run, env)
    reads = run.loss.needs_teacher or run.text.needs_teacher
    assert (facts["flops_teacher_inference_exact"] > 0) == reads
    assert (facts["flops_teacher_training_exact"] > 0) == reads


def test_they_are_all_different(compose_cfg: Compose):
    runs = {composed(compose_cfg, said)[0].run_id for said in [*SAID, ""]}
    assert len(runs) == len(SAID) + 1


@pytest.mark.parametrize("times", [2, 4, 8])
def test_more_tokens_of_both(compose_cfg: Compose, times: int):
    said = f"loss=none train.split=student+teacher train.num_tokens={times * 100000}"
    run, _ = composed(compose_cfg, said)
    assert run.num_steps >= times * 24 and run.train.split == "student+teacher"


def test_the_sweep_of_the_page_plans(compose_cfg: Compose):
    """Three parts of one recording, and the control on each part's own tokens."""
    block = OmegaConf.create(re.findall(r"```yaml\n(.*?)```", PAGE, re.S)[0])
    runs = []
    for start, end in zip(block.axes["text.start_frac"], block.axes["text.end_frac"], strict=True):
        part = [*block.base, f"text.start_frac={start}", f"text.end_frac={end}"]
        for more in ([], block.control[0]):
            runs.append(composed(compose_cfg, " ".join([*part, *more]))[0])
    assert len({run.run_id for run in runs}) == 6
    assert len({run.teacher_id(run.teacher) for run in runs}) == 1
    assert all(run.is_recorded == run.loss.needs_teacher for run in runs)
