"""MLflow as a user sees it: its real server, in a real headless browser."""

import shutil
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import Shell, finished, wait_for

from pdx.config import run_of_resolved
from pdx.sweep.plan import load_plan
from pdx.tracking import SweepLog

__all__ = ["finished"]  # a fixture

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
browser = next(filter(None, map(shutil.which, BROWSERS)), None)
pytestmark = pytest.mark.skipif(browser is None, reason=f"none of {', '.join(BROWSERS)} is here")


@pytest.fixture
def server(finished: Shell) -> Iterator[str]:
    """``pdx ui`` on the finished sweep; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    command = [str(finished.program), "ui", f"env.outputs={finished.out}", f"port={port}"]
    # Its own PDX_OUTPUTS: processes of the shared terminal are counted by other tests.
    environ = finished.environ | {"PDX_OUTPUTS": str(finished.out) + "-ui"}
    process = subprocess.Popen(
        command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )

    def answers() -> bool:
        try:
            return urllib.request.urlopen(f"{address}/health", timeout=2).status == 200
        except OSError:
            return False

    try:
        wait_for("MLflow's server", answers, process)
        yield address
    finally:
        process.terminate()
        process.wait(60)


def page(url: str, profile: Path) -> str:
    """The page's text after its scripts have run."""
    command = [str(browser), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"]
    command += ["--no-first-run", "--disable-background-networking", "--disable-sync"]
    command += ["--disable-component-update", f"--user-data-dir={profile}"]
    command += ["--window-size=1600,1200", "--virtual-time-budget=20000", "--dump-dom", url]
    return subprocess.run(command, capture_output=True, text=True, timeout=120).stdout


def shows(url: str, texts: list[str], folder: Path) -> None:
    """Wait until the page holds every text; a slow machine may need a second look."""
    seen = ""

    def complete() -> bool:
        nonlocal seen
        seen = page(url, folder / "profile")
        return all(text in seen for text in texts)

    try:
        wait_for(f"{texts} at {url}", complete)
    except AssertionError:
        missing = [text for text in texts if text not in seen]
        raise AssertionError(f"{url} does not show {missing}") from None


def test_the_sweeps_runs_and_the_compare_page_are_shown(
    finished: Shell,
    server: str,
    tmp_path: Path,
):
    (file,) = finished.out.glob("sweeps/*/plan.json")
    plan = load_plan(file.parent)
    _, env = run_of_resolved(plan.points[0].config)
    log = SweepLog(env, plan.sweep_id)
    experiment = f"{server}/#/experiments/{log.experiment}/runs?workflowType=machine_learning"
    shows(experiment, [plan.sweep_id], tmp_path)
    link = log.compare_link()
    assert link
    labels = [point.label for point in plan.points]
    shows(server + link, [f"Comparing {len(labels)} Runs", "student", "loss", *labels], tmp_path)
