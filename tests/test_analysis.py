"""The analysis on sweeps whose truth is known: laws, intervals, accountings, figures, report."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pdx.analysis.aggregate import human, label_runs, mean_interval, roles
from pdx.analysis.bootstrap import bootstrap
from pdx.analysis.compute import ACCOUNTINGS
from pdx.analysis.figures import draw_all
from pdx.analysis.fit import Fit, FitRefused, fit
from pdx.analysis.laws import LAWS, Law, PowerLaw, PowerLawOffset
from pdx.analysis.report import remake_command, write_report
from pdx.analysis.results import Results, analyse
from pdx.analysis.table import load_plan, load_runs, write_table
from pdx.errors import SweepError

SIZES = {"s10k": 11_000, "s30k": 31_000, "s100k": 98_000, "s300k": 310_000, "s1m": 980_000}
NUM_TOKENS = 1_000_000
NUM_PARAMS_TEACHER = 100_000
GAIN = 0.2


def true_loss(num_params: float, num_tokens: float) -> float:
    """The control's loss: linear in log tokens, so that interpolation in log tokens is exact."""
    return 2.0 + 30.0 * num_params**-0.3 - 0.1 * np.log(num_tokens / NUM_TOKENS)


def make_sweep(
    root: Path,
    sizes: dict[str, int] = SIZES,
    seeds: tuple[int, ...] = (0, 1),
    recipes: dict[str, float] | None = None,
    controls: dict[float, tuple[str, ...]] | None = None,
    rates: tuple[float, ...] = (),
    noise: float = 0.0,
    seed_noise: float = 0.01,
    teacher_tokens: float = 0.5e6,
) -> tuple[Path, Path]:
    """Write plan.json and the folders of finished runs; returns (sweep_dir, runs_dir).

    Args:
        recipes: gain of each loss over the control.
        controls: for each token multiple, the sizes that have a control there.
        noise: standard deviation per run; seed_noise: shared by all runs of one seed.
    """
    recipes = {"forward_kl": GAIN} if recipes is None else recipes
    controls = {1: tuple(sizes), 2: tuple(sizes), 4: tuple(sizes)[:2]} if controls is None else controls
    rng = np.random.default_rng(0)
    by_seed = {seed: seed_noise * rng.normal() for seed in seeds}
    points: list[dict[str, Any]] = []
    specs = [("axis", size, loss, 1, rate) for size in sizes for loss in recipes
             for rate in rates or (None,)]
    specs += [("control", size, "none", m, rate) for m, names in controls.items()
              for size in names for rate in rates or (None,)]
    for role, size, loss, multiple, rate in specs:
        for seed in seeds:
            num, tokens = sizes[size], int(NUM_TOKENS * multiple)
            params: dict[str, Any] = {"student": size, "loss": loss, "train.seed": seed}
            if role == "control" and multiple != 1:
                params["train.num_tokens"] = tokens
            if rate is not None:
                params["optim.peak_lr"] = rate
            taught = loss != "none"
            facts = {
                "num_params_total": 2 * num, "num_params_non_embedding": num, "num_tokens": tokens,
                "num_unique_tokens": tokens, "num_epochs": 1.0, "seq_len": 128, "vocab_size": 1024,
                "flops_train_exact": 6.0 * num * tokens, "flops_train_6nd": 6.0 * num * tokens,
                "flops_teacher_inference_exact": 2.0 * NUM_PARAMS_TEACHER * tokens * taught,
                "flops_teacher_training_exact": 6.0 * NUM_PARAMS_TEACHER * teacher_tokens * taught,
                "data_digest": "d0", "teacher_id": "t0" if taught else None,
            }
            loss_value = true_loss(num, tokens) + by_seed[seed] + noise * rng.normal()
            loss_value -= recipes.get(loss, 0.0)
            loss_value += 0.0 if rate is None else 0.05 * np.log2(rate / 0.004) ** 2
            run_id = f"{len(points):012x}"
            target = f"pdx.losses.{loss}.Loss"
            points.append({
                "run_id": run_id, "role": role, "params": params, "overrides": [], "facts": facts,
                "config": {"loss": {"_target_": target}, "optim": {"peak_lr": rate or 0.004}},
            })
            metrics = {
                "val/loss": loss_value, "test/loss": loss_value + 0.01, "train/loss": loss_value,
                "val/bits_per_byte": loss_value * 0.6, "val/teacher_kl": loss_value - 2.0,
                "val/top1_agreement": 1 / loss_value, "val/ece": 0.02, "val/teacher_loss": 2.4,
            }
            folder = root / "runs" / run_id
            folder.mkdir(parents=True)
            result = {
                "run_id": run_id, "status": "complete", "reason": None, "seconds": 10.0,
                "metrics": metrics, "facts": facts,
                "provenance": {"git_commit": "abc1234", "git_dirty": False, "host": "box"},
            }
            (folder / "result.json").write_text(json.dumps(result))
            lines = [
                {"step": i, "tokens": tokens * i // 4, "val/loss": loss_value + 0.5 / i}
                for i in range(1, 5)
            ]
            (folder / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    axes = ["student", "loss", *(["optim.peak_lr"] if rates else []), "train.seed"]
    plan = {
        "name": "demo", "scale": "cpu", "digest": "9ac1", "question": "Does <it> help & when?",
        "command": "pdx train -m sweep=demo scale=cpu", "axes": axes, "seed_axis": "train.seed",
        "points": points,
    }
    sweep_dir = root / "sweeps" / "demo-cpu-9ac1"
    sweep_dir.mkdir(parents=True)
    (sweep_dir / "plan.json").write_text(json.dumps(plan))
    return sweep_dir, root / "runs"
