"""The real command line, in processes of its own: what the tests of sweeps share."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from conftest import TINY
from optuna.trial import FrozenTrial

from pdx.files import locked, read_json
from pdx.sweep.plan import load_plan
from pdx.sweep.studies import Studies

# Generous: what passes in ten seconds alone may share its cores.
SECONDS = float(os.environ.get("PDX_TEST_SECONDS", "180"))

ODD = '''"""A user's own loss, which does what a test asks of it."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pdx.losses.forward_kl import ForwardKL

NUM_CALLS = []


@dataclass(frozen=True, kw_only=True)
class Odd(ForwardKL):
    does: Any
    weight: float

    def __call__(self, student_logits_CV, teacher):
        with open("slots.log", "a") as file:
            file.write(f"{os.getppid()} {os.environ.get('CUDA_VISIBLE_DEVICES')}\\n")
        NUM_CALLS.append(1)
        if Path("slow").exists():
            time.sleep(0.15 if len(NUM_CALLS) <= 12 else 1.0)
        if Path("hold").exists():
            time.sleep(0.25)  # long enough for a checkpoint
        while Path("hold").exists() and len(NUM_CALLS) > 4:
            time.sleep(0.05)
        if Path("broken").exists() and self.does == "raises":
            raise RuntimeError("no loss today")
        if Path("broken").exists() and self.does == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        return self.weight * super().__call__(student_logits_CV, teacher)
'''


def wait_for(
    what: str, condition: Callable[[], Any], process: Any = None, every: float = 0.02
) -> Any:
    """Poll until ``condition`` holds, and return what it gave; ``process`` must live until then."""
    deadline = time.monotonic() + SECONDS
    while not (found := condition()):
        ended = process is not None and process.poll() is not None
        assert not ended, f"ended with {process.returncode} while waiting for: {what}"
        assert time.monotonic() < deadline, f"waited {SECONDS:.0f} s in vain for: {what}"
        time.sleep(every)
    return found


class Shell:
    """A user's terminal in a folder: its own outputs, sweeps/ and packages."""

    def __init__(self, root: Path, **environ: str) -> None:
        self.root, self.out = root, root / "out"
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "PDX_"))}
        own = {"PDX_OUTPUTS": str(self.out), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
        self.environ = kept | own | environ
        self.program = shutil.which("pdx", path=str(Path(sys.executable).parent))
        assert self.program, "pdx is not installed beside this Python"

    def copy(self, root: Path) -> "Shell":
        """Another terminal, in whose outputs the runs of this one are finished; no sweep is."""
        for name in ("out", "sweeps"):
            shutil.copytree(self.root / name, root / name)
        shutil.rmtree(root / "out" / "sweeps")
        (root / "out" / "mlflow.db").unlink()
        return Shell(root)

    def write_sweep(self, name: str, **block: Any) -> None:
        """Write sweeps/NAME.yaml: the tiny config as its base, ``block`` as its only scale."""
        content = {"question": "Does it run?", "base": TINY, "scales": {"cpu": block}}
        (self.root / "sweeps").mkdir(exist_ok=True)
        (self.root / "sweeps" / f"{name}.yaml").write_text(yaml.safe_dump(content))

    def write_own_package(self) -> None:
        """A package and a conf directory of the user's own: ``--config-dir conf loss=odd``."""
        for folder in ("mine", "conf/loss"):
            (self.root / folder).mkdir(parents=True, exist_ok=True)
        (self.root / "mine" / "losses.py").write_text(ODD)
        node = "_target_: mine.losses.Odd\ndoes: nothing\nweight: 1.0\n"
        (self.root / "conf" / "loss" / "odd.yaml").write_text(f"# A user's own.\n{node}")

    def pdx(self, *arguments: str, status: int | None = 0) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; ``status`` is the exit status to ask for."""
        done = subprocess.run(
            [str(self.program), *arguments],
            cwd=self.root,
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        said = f"{done.stdout[-3000:]}\n{done.stderr[-6000:]}\n{self.worker_logs()[-6000:]}"
        assert status is None or done.returncode == status, f"exit {done.returncode}:\n{said}"
        return done

    @contextmanager
    def started(self, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        """A command under way as the leader of its process group; all of it dies with the block."""
        with open(self.root / "terminal.log", "ab") as log:
            process = subprocess.Popen(
                [str(self.program), *arguments],
                cwd=self.root,
                env=self.environ,
                stdout=log,
                stderr=log,
                start_new_session=True,
                # A suite started in the background ignores Ctrl-C, and so would its children.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )
        try:
            yield process
        except BaseException:
            print(f"{self.terminal()[-6000:]}\n{self.worker_logs()[-12000:]}")
            raise
        finally:
            for left in self.processes():
                left.kill()
            process.wait(SECONDS)

    def terminal(self) -> str:
        """What commands under way have said so far."""
        return (self.root / "terminal.log").read_text()

    def processes(self) -> list[psutil.Process]:
        """Every process that this terminal started and that lives, whoever its parent is now."""
        found = []
        for process in psutil.process_iter():
            try:
                mine = process.environ().get("PDX_OUTPUTS") == str(self.out)
                if mine and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def worker_logs(self) -> str:
        """What the workers of all sweeps said."""
        files = sorted(self.out.glob("sweeps/*/workers/*.log"))
        return "\n".join(f"== {file.name}\n{file.read_text()}" for file in files)

    # ---- what is on the disk -----------------------------------------------------------------

    def plan(self) -> dict[str, Any]:
        """The only sweep's plan."""
        (file,) = self.out.glob("sweeps/*/plan.json")
        return read_json(file)

    def run_dirs(self) -> dict[str, Path]:
        """The run folders of the only sweep's points, by label."""
        return {
            " ".join(f"{k}={v}" for k, v in p["params"].items()): self.out / "runs" / p["run_id"]
            for p in self.plan()["points"]
        }

    def trials(self) -> list[FrozenTrial]:
        """The only sweep's trials."""
        (file,) = self.out.glob("sweeps/*/plan.json")
        return Studies(file.parent, load_plan(file.parent)).trials()

    def results(self) -> dict[str, int]:
        """When each result was written, by run id."""
        return {f.parent.name: f.stat().st_mtime_ns for f in self.out.glob("runs/*/result.json")}

    def mlflow_runs(self, query: str = "") -> list[Any]:
        """MLflow's runs."""
        from mlflow.tracking import MlflowClient

        client = MlflowClient(tracking_uri=f"sqlite:///{self.out / 'mlflow.db'}")
        experiments = [e.experiment_id for e in client.search_experiments()]
        return list(client.search_runs(experiments, query))


def states(trials: list[FrozenTrial]) -> dict[str, list[str]]:
    """The states that each point went through, by run id."""
    found: dict[str, list[str]] = {}
    for trial in sorted(trials, key=lambda t: t.number):
        found.setdefault(trial.user_attrs["run_id"], []).append(trial.state.name)
    return found


def steps(run_dir: Path) -> list[int]:
    """Steps that a run has logged so far."""
    file = run_dir / "metrics.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    return [json.loads(line)["step"] for line in lines if line.endswith("}")]


def assert_all_over(shell: Shell, num_points: int, trials: list[FrozenTrial] | None = None) -> None:
    """Every point complete exactly once, one MLflow run each, nothing left that seems to run."""
    ended = states(shell.trials() if trials is None else trials)
    assert len(ended) == num_points
    for run_id, passed in ended.items():
        assert passed.count("COMPLETE") == 1 and passed[-1] == "COMPLETE", f"{run_id}: {passed}"
        assert set(passed[:-1]) <= {"FAIL"}, f"{run_id}: {passed}"
        assert steps(shell.out / "runs" / run_id) == list(range(1, 33)), "each step, once"
    assert {r.info.status for r in shell.mlflow_runs()} == {"FINISHED"}
    logged = [r.data.tags["pdx.run_id"] for r in shell.mlflow_runs("tags.`pdx.kind` = 'run'")]
    assert sorted(logged) == sorted(ended), "retries and resumption go on with the same MLflow run"


@pytest.fixture
def finished(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """A finished sweep that tests share, across files and test processes: look, do not change."""
    base = tmp_path_factory.getbasetemp()
    root = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "finished-sweep"
    with locked(root.with_suffix(".lock"), say=False):
        shell = Shell(root)
        if not (root / "done").exists():
            root.mkdir()
            axes = {"student": ["s10k", "s30k"], "loss": ["forward_kl", "soft_ce"]}
            shell.write_sweep("tiny", axes=axes, control=["loss=none"], expected_runs=6)
            shell.pdx("train", "-m", "sweep=tiny", "env.num_workers=2")
            (root / "done").touch()
    return shell
