"""The example of CONTRIBUTING.md: two files and a line make a loss that keeps laws and trains."""

import math
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import test_losses
from conftest import TINY
from hydra import compose, initialize_config_dir
from numerics import SIGNALS, component

import pdx.losses
from hydra_plugins.pdx_sweeper import register
from pdx import housekeeping, paths
from pdx.build import _build
from pdx.config import run_of
from pdx.execute import execute

NAME = "hellinger"
TEXT = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text()
BLOCKS = dict(re.findall(r"^`([\w/.]+)`:\n\n```\w+\n(.*?)```$", TEXT, re.DOTALL | re.MULTILINE))
LOSS, CONF, ORACLES = f"pdx/losses/{NAME}.py", f"conf/loss/{NAME}.yaml", "tests/test_losses.py"
CLOSED = [of for of in SIGNALS if SIGNALS[of].closed]


@pytest.fixture
def add(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Puts the files where they belong, in copies of conf/ and of the search path of pdx.losses."""
    conf, losses = tmp_path / "conf", tmp_path / "losses"
    shutil.copytree(paths.conf_dir(), conf)
    losses.mkdir()
    (conf / "loss" / f"{NAME}.yaml").write_text(BLOCKS[CONF])
    monkeypatch.setattr(pdx.losses, "__path__", [*pdx.losses.__path__, str(losses)])
    monkeypatch.setattr(paths, "conf_dir", lambda: conf)
    monkeypatch.setattr(housekeeping, "conf_dir", lambda: conf)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def inner(source: str) -> None:
        (losses / f"{NAME}.py").write_text(source)
        _build.cache_clear()  # it holds what was built of another text of this name
        monkeypatch.setitem(test_losses.LOSSES, NAME, component("loss", NAME))

    yield inner
    sys.modules.pop(f"pdx.losses.{NAME}", None)
    _build.cache_clear()


def keeps_the_laws() -> None:
    """Each law of tests/test_losses.py, as pytest would call it for this loss."""
    laws, faithful = test_losses, [of for of in CLOSED if SIGNALS[of].faithful]
    for of in CLOSED:
        laws.test_loss_is_its_oracle(NAME, of)
        laws.test_constant_added_to_logits_changes_nothing(NAME, of)
    for of in faithful:
        laws.test_divergence_is_zero_where_they_agree_and_nowhere_else(NAME, of)
    for of in ("full-t2_both", "topk-bucket-t2_both", "topp-bucket-t1"):
        laws.test_gradient_is_the_oracles(NAME, of)
        laws.test_masked_tokens_get_exactly_no_gradient(NAME, of)
        laws.test_micro_batches_and_chunks_sum_to_the_batch(NAME, of, 3, 2)
        for sharp in ("teacher", "student", "both"):
            laws.test_extremely_sharp_distributions_stay_finite(NAME, of, sharp)
        for dtype in (laws.torch.float32, laws.torch.bfloat16):
            laws.test_low_precision_is_upcast_first(NAME, dtype, of)
    for top_p in (None, 0.6):
        laws.test_merging_tokens_never_adds_to_a_divergence(NAME, (2.0, True), top_p)
    laws.test_a_loss_declares_what_it_is(NAME)


def test_the_example_is_whole():
    assert {LOSS, CONF, ORACLES} == {*BLOCKS}
    assert not (paths.conf_dir() / f"loss/{NAME}.yaml").exists(), "an example, no loss of pdx"
    assert len(BLOCKS[ORACLES].splitlines()) == 1


def test_two_files_and_a_line_make_a_loss(
    add: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    add(BLOCKS[LOSS])
    with pytest.raises(pytest.fail.Exception, match=f"add a float64 reference for {NAME} to ORAC"):
        keeps_the_laws()
    line: dict[str, Any] = eval(f"{{{BLOCKS[ORACLES].strip()}}}", dict(vars(test_losses)))
    monkeypatch.setitem(test_losses.ORACLES, *line.popitem())
    keeps_the_laws()
    assert f"  {NAME} " in housekeeping.axes("loss") and BLOCKS[CONF][2:30] in housekeeping.axes()
    register()
    short = ["train.num_tokens=1024", "teacher.num_tokens=1024", f"env.outputs={tmp_path}/out"]
    with initialize_config_dir(str(paths.conf_dir()), version_base="1.3"):
        run, env = run_of(compose("config", overrides=["env=local", *TINY, *short, f"loss={NAME}"]))
    assert run.num_steps >= 2
    result = execute(run, env, quiet=True)
    assert result["status"] == "complete" and math.isfinite(result["metrics"]["val/loss"])


@pytest.mark.parametrize(
    ("old", "new"),
    [("return 0.5 *", "return"), ("(student_CS / 2)", "student_CS"), (".square()", ".abs()")],
)
def test_the_laws_catch_a_mistake_in_it(
    add: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, old: str, new: str
):
    assert BLOCKS[LOSS].count(old) == 1
    add(BLOCKS[LOSS].replace(old, new))
    line: dict[str, Any] = eval(f"{{{BLOCKS[ORACLES].strip()}}}", dict(vars(test_losses)))
    monkeypatch.setitem(test_losses.ORACLES, *line.popitem())
    with pytest.raises(AssertionError):
        keeps_the_laws()
