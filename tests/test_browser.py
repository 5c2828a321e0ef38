"""What a user sees of a sweep: MLflow's own pages in a real browser."""

import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from browser import CHROMIUM, Browser
from command_line import Shell, finished, wait_for

from pdx.config import run_of_resolved
from pdx.tracking.sweep import SweepLog

__all__ = ["finished"]

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no browser is installed")
# The button that unfolds a parent's children stands in its row, left of its name.
UNFOLD = """
[...document.querySelectorAll('[role=gridcell]')]
  .find(cell => cell.innerText.includes('%s')).querySelector('button').click()
"""
AXES = "[...document.querySelectorAll('.axis-title')].map(title => title.textContent)"


@pytest.fixture
def ui(finished: Shell, tmp_path: Path) -> Iterator[str]:
    """The link that ``pdx ui`` prints, once it is served."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shell = Shell(tmp_path)
    with shell.started("ui", f"env.outputs={finished.out}", f"port={port}") as server:

        def answers() -> bool:
            try:
                return urlopen(f"http://127.0.0.1:{port}/health", timeout=5).status == 200
            except (URLError, OSError):
                return False

        wait_for("MLflow's server", answers, server)
        said = next(line for line in shell.terminal().splitlines() if line.startswith("MLflow on"))
        yield said.split(": ")[-1]


def test_mlflow_shows_the_sweep_and_compares_its_runs(finished: Shell, ui: str, tmp_path: Path):
    plan = finished.plan()
    names = [" ".join(f"{k}={v}" for k, v in p["params"].items()) for p in plan["points"]]
    assert len(names) == 6
    (parent,) = finished.mlflow_runs("tags.`pdx.kind` = 'sweep'")
    _, env = run_of_resolved(plan["points"][0]["config"])
    log = SweepLog.find(env, parent.info.run_name)
    assert log
    compare = log.compare_link()
    with Browser(tmp_path) as browser:
        browser.open(ui)
        shown = browser.wait_for(parent.info.run_name, "Model training", "Run Name")
        assert names[0] not in shown, "children are folded away under their sweep"
        browser.ask(UNFOLD % parent.info.run_name)
        browser.wait_for(*names)
        browser.screenshot("runs")

        browser.open(ui.partition("/#/")[0] + str(compare))
        shown = browser.wait_for("Comparing 6 Runs from 1 Experiment", *names)
        for part in ("Parallel Coordinates Plot", "Parameters:", "Metrics:"):
            assert part in shown
        axes = wait_for("the plot", lambda: browser.ask(AXES))
        assert axes == ["loss", "student", "train/ce_loss"], "a loss that all can be held by"
        plotted = browser.ask("document.querySelector('.js-plotly-plot').textContent")
        for value in ("s10k", "s30k", "forward_kl", "soft_ce", "none"):
            assert value in plotted, f"{value} is not on an axis of the parallel coordinates"
        browser.screenshot("compare")
