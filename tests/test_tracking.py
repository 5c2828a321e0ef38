"""MLflow's records of sweeps and runs: what a user finds there."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import yaml
from command_line import Shell, finished, wait_for
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from pdx.config import Run, run_of_resolved
from pdx.env import Env
from pdx.errors import TrackingError
from pdx.files import locked, read_json, write_json
from pdx.paths import conf_dir
from pdx.tracking.connect import connect
from pdx.tracking.run import RunLog, log_teacher
from pdx.tracking.sweep import SweepLog, attach_to_sweep

__all__ = ["finished"]

KIND = "tags.`pdx.kind` = '{}'".format


@pytest.fixture
def env(tiny: Callable[..., tuple[Run, Env]]) -> Env:
    """A machine whose outputs are empty."""
    return tiny()[1]


@pytest.fixture
def client(finished: Shell) -> MlflowClient:
    return MlflowClient(tracking_uri=f"sqlite:///{finished.out / 'mlflow.db'}")


# ---- a finished sweep ----------------------------------------------------------------------------


def test_a_sweep_is_a_parent_and_each_run_its_child(finished: Shell):
    (parent,) = finished.mlflow_runs(KIND("sweep"))
    children = finished.mlflow_runs(f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    points = {p["run_id"]: p for p in finished.plan()["points"]}
    assert {r.data.tags["pdx.run_id"] for r in children} == set(points)
    assert len(children) == len(points) == 6
    assert {r.info.experiment_id for r in children} == {parent.info.experiment_id}
    (directory,) = finished.out.glob("sweeps/*")
    assert parent.info.run_name == parent.data.tags["pdx.sweep_id"] == directory.name
    command = "pdx train -m sweep=tiny env.num_workers=2"
    assert parent.data.tags["mlflow.note.content"] == f"Does it run?\n\n`{command}`"
    assert parent.data.params == {"num_runs": "6"}
    assert parent.data.metrics["runs/complete"] == 6 and parent.data.metrics["runs/failed"] == 0
    for run in children:
        point = points[run.data.tags["pdx.run_id"]]
        assert run.data.params == {key: str(v) for key, v in point["params"].items()}
        assert run.data.tags["pdx.role"] == point["role"]
        assert run.data.tags["pdx.sweep_id"] == directory.name
        assert run.data.tags["pdx.state"] == "complete"
        expected = " ".join(f"{k}={v}" for k, v in point["params"].items())
        assert run.info.run_name == expected


def test_each_run_tells_the_commit_that_its_folder_tells(finished: Shell):
    for run in finished.mlflow_runs(KIND("run")):
        result = read_json(finished.out / "runs" / run.data.tags["pdx.run_id"] / "result.json")
        commit = result["provenance"]["git_commit"]
        assert run.data.tags["mlflow.source.git.commit"] == (commit or "unknown")


def test_metrics_are_those_of_the_run_folder(finished: Shell, client: MlflowClient):
    for run in finished.mlflow_runs(KIND("run")):
        result = read_json(finished.out / "runs" / run.data.tags["pdx.run_id"] / "result.json")
        for key, value in result["metrics"].items():
            assert run.data.metrics[f"final/{key}"] == pytest.approx(value)
        assert run.data.metrics["size/num_params_total"] == result["facts"]["num_params_total"]
        curve = client.get_metric_history(run.info.run_id, "train/loss")
        assert [m.step for m in curve] == list(range(1, 33)), "every step that the run logged, once"
        assert run.data.metrics["train/loss"] == pytest.approx(result["metrics"]["train/loss"])


def test_artifacts_are_the_config_and_our_own_figures(finished: Shell, client: MlflowClient):
    for run in finished.mlflow_runs(KIND("run")):
        (artifact,) = client.list_artifacts(run.info.run_id)
        assert artifact.path == "config.yaml"
        stored = Path(client.download_artifacts(run.info.run_id, "config.yaml")).read_text()
        folder = finished.out / "runs" / run.data.tags["pdx.run_id"]
        assert stored == (folder / "config.yaml").read_text()
        student = conf_dir() / "student" / f"{run.data.params['student']}.yaml"
        assert yaml.safe_load(stored)["student"] == yaml.safe_load(student.read_text())
    (parent,) = finished.mlflow_runs(KIND("sweep"))
    attached = {Path(a.path).name for a in client.list_artifacts(parent.info.run_id, "report")}
    assert "report.html" in attached
    assert [name for name in attached if name.endswith((".png", ".svg"))], "the figures"
    assert {"report.html", "runs.parquet"} <= attached, sorted(attached)


def test_a_report_made_by_hand_is_attached_where_the_sweep_is(finished: Shell, env: Env):
    (parent,) = finished.mlflow_runs(KIND("sweep"))
    html = Path(parent.info.artifact_uri.removeprefix("file://")) / "report" / "report.html"
    before, plan = html.stat().st_mtime_ns, finished.plan()
    said = finished.pdx("report", "sweep=tiny").stdout
    assert html.stat().st_mtime_ns > before and "not attached" not in said
    assert finished.plan() == plan, "what it was trained with is not what it is reported with"

    assert "there is no sqlite" in (attach_to_sweep(env, "tiny", [html]) or "")
    assert not Path(env.mlflow_uri.removeprefix("sqlite:///")).exists(), "it makes no store"
    here = replace(env, outputs=str(finished.out))
    assert "is this sweep's parent" in (attach_to_sweep(here, "another-cpu-0", [html]) or "")


def test_the_data_is_a_dataset_of_each_run(finished: Shell):
    for run in finished.mlflow_runs(KIND("run")):
        (read,) = run.inputs.dataset_inputs
        result = read_json(finished.out / "runs" / run.data.tags["pdx.run_id"] / "result.json")
        assert read.dataset.digest == result["facts"]["data_digest"]
        assert [(t.key, t.value) for t in read.tags] == [("mlflow.data.context", "train")]


def test_the_teacher_has_a_run_with_its_own_curve(finished: Shell, client: MlflowClient):
    (teacher,) = finished.mlflow_runs(KIND("teacher"))
    assert {p["facts"]["teacher_id"] for p in finished.plan()["points"]} == {
        teacher.data.tags["pdx.run_id"],
        None,
    }
    assert client.get_metric_history(teacher.info.run_id, "train/loss")


def test_the_compare_link_names_every_run(finished: Shell):
    (parent,) = finished.mlflow_runs(KIND("sweep"))
    _, env = run_of_resolved(finished.plan()["points"][0]["config"])
    log = SweepLog.find(env, parent.info.run_name)
    link = log and log.compare_link()
    assert link
    for run in finished.mlflow_runs(KIND("run")):
        assert run.info.run_id in link
    assert parent.info.run_id not in link
    assert not set('["], ') & set(link), "a terminal takes all of it for one link"
    assert f'experiments=["{parent.info.experiment_id}"]' in unquote(link)


# ---- runs, written one by one --------------------------------------------------------------------


def result_of(folder: Path) -> dict[str, Any]:
    """A finished run's folder, made up."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text("loss: {}\n")
    facts = {"num_steps": 2, "num_params_total": 10, "vocab_size": None}
    return {"status": "complete", "reason": None, "metrics": {"val/loss": 3.0}, "facts": facts}


def only_run(env: Env) -> Any:
    client, experiment = connect(env)
    (run,) = client.search_runs([experiment])
    return run


def test_a_run_reopened_goes_on_with_the_same_record(env: Env):
    first = RunLog(env, "abc", "run", {"lr": 0.1})
    first.observe(1, {"train/loss": 5.0})
    first.end("failed", "KeyError: x", "FAILED")
    assert only_run(env).info.status == "FAILED"
    assert only_run(env).data.tags["pdx.reason"] == "KeyError: x"

    second = RunLog(env, "abc", "run", {"lr": 0.1})
    assert second.run_id == first.run_id
    assert only_run(env).info.status == "RUNNING"
    assert "pdx.reason" not in only_run(env).data.tags
    second.observe(2, {"train/loss": 4.0})
    second.finish(result_of(env.paths.runs / "abc"), env.paths.runs / "abc")
    run = only_run(env)
    assert (run.info.status, run.data.tags["pdx.state"]) == ("FINISHED", "complete")
    assert run.data.params == {"lr": "0.1"}
    history = second.client.get_metric_history(second.run_id, "train/loss")
    assert [(m.step, m.value) for m in history] == [(1, 5.0), (2, 4.0)]


def test_a_dataset_that_another_run_is_just_adding_is_no_failure(
    env: Env, monkeypatch: pytest.MonkeyPatch
):
    log = RunLog(env, "abc", "run", {})
    add, num_calls = log.client.log_inputs, []

    def collide(*arguments: Any) -> None:
        num_calls.append(1)
        if len(num_calls) == 1:  # what two runs that end at once were seen to do
            raise MlflowException("UNIQUE constraint failed: datasets.digest")
        add(*arguments)

    monkeypatch.setattr(log.client, "log_inputs", collide)
    log.dataset("Stdlib", "d1", "outputs/data")
    assert [d.dataset.digest for d in only_run(env).inputs.dataset_inputs] == ["d1"]


def test_metrics_are_sent_in_batches(env: Env, monkeypatch: pytest.MonkeyPatch):
    log = RunLog(env, "abc", "run", {})
    sent: list[int] = []
    send = log.client.log_batch
    monkeypatch.setattr(
        log.client,
        "log_batch",
        lambda run_id, metrics: (sent.append(len(metrics)), send(run_id, metrics)),
    )
    for step in range(250):
        log.observe(step, {"a": 1.0, "b": 2.0})
    assert sent == [300], "one call for many metrics"
    log.flush()
    assert sent == [300, 200]
    assert len(log.client.get_metric_history(log.run_id, "a")) == 250


def test_values_and_keys_of_hydra_reach_mlflow(env: Env):
    params = {"+data.x": None, "teacher@eval_teacher": "a, b=c 'd'", "~x": [1, "y z"]}
    RunLog(env, "abc", "run", params)
    expected = {"data.x": "None", "teacher.eval_teacher": "a, b=c 'd'", "x": "[1, 'y z']"}
    assert only_run(env).data.params == expected


def test_a_run_id_left_in_the_environment_does_no_harm(env: Env, monkeypatch: pytest.MonkeyPatch):
    other = SweepLog.open(env, "other", "?", "pdx train -m", 1)
    monkeypatch.setenv("MLFLOW_RUN_ID", other.run_id)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "77")
    log = RunLog(env, "abc", "run", {"lr": 0.1})
    log.finish(result_of(env.paths.runs / "abc"), env.paths.runs / "abc")
    assert log.run_id != other.run_id
    untouched = other.client.get_run(other.run_id)
    assert untouched.data.params == {"num_runs": "1"} and untouched.info.status == "RUNNING"


def test_a_store_whose_creation_was_killed_is_created_anew(env: Env):
    """MLflow takes seconds for its tables, and refuses what is left of them."""
    code = (
        "import sys, pathlib, pdx.tracking.connect as connect\n"
        "connect._create_whole(pathlib.Path(sys.argv[1]))"
    )
    database = env.paths.root / "mlflow.db"
    creating = subprocess.Popen([sys.executable, "-c", code, str(database)])
    half_made = env.paths.root / ".mlflow.db.new"
    wait_for("tables", lambda: half_made.exists() and half_made.stat().st_size, creating)
    creating.kill()
    creating.wait()
    assert not database.exists()
    client, experiment = connect(env)
    assert client.get_experiment(experiment).name == env.experiment
    assert not list(env.paths.root.glob(".mlflow.db.new*"))


def test_only_what_has_no_process_is_closed(env: Env):
    """A run is alive while its folder's lock is held; a sweep that ends closes the others.

    One that was killed before it took its lock is one of the others.
    """
    sweep = SweepLog.open(env, "mine-cpu-0", "?", "pdx train -m", 3)
    logs = {name: RunLog(env, name, "run", {}, sweep) for name in ("dead", "alive", "remote")}
    shutil.rmtree(env.paths.runs / "remote")
    with locked(env.paths.run_lock("alive")):
        sweep.close_lost({"dead": "exit code -9"})
    found = {name: log.client.get_run(log.run_id) for name, log in logs.items()}
    assert {name: run.info.status for name, run in found.items()} == {
        "dead": "KILLED",
        "alive": "RUNNING",
        "remote": "RUNNING",  # of another machine, whose folders are not here
    }
    assert found["dead"].data.tags["pdx.reason"] == "exit code -9"
    assert sweep.client.get_run(sweep.run_id).info.status == "RUNNING"
    for counts, status in (({"complete": 2, "failed": 1}, "FAILED"), ({"complete": 3}, "FINISHED")):
        sweep.finish({"complete": 0, "diverged": 0} | counts)
        assert sweep.client.get_run(sweep.run_id).info.status == status


def test_a_teacher_is_recorded_once_and_only_if_trained_here(env: Env):
    log_teacher(env, "abc")
    client, experiment = connect(env)
    assert not client.search_runs([experiment]), "not trained here"
    write_json(env.paths.result("abc"), result_of(env.paths.runs / "abc"))
    for _ in range(2):
        log_teacher(env, "abc")
    assert only_run(env).data.tags["pdx.kind"] == "teacher"


@pytest.mark.parametrize("uri", ["http://127.0.0.1:1", "nonsense://x"])
def test_a_store_that_cannot_be_reached_is_refused(
    tiny: Callable[..., tuple[Run, Env]], uri: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(TrackingError, match=rf"env\.tracking_uri={uri}: cannot be used \(.*start"):
        connect(tiny(f"env.tracking_uri={uri}")[1])


def test_six_processes_start_at_once_on_the_drivers_database(env: Env):
    """On a database that no driver made, five of six died in MLflow's migrations."""
    connect(env)
    code = (
        "import sys; from dataclasses import replace; from pdx.build import build\n"
        "from omegaconf import OmegaConf; from pdx.paths import conf_dir\n"
        "node = OmegaConf.load(conf_dir() / 'env' / 'local.yaml'); node.outputs = sys.argv[1]\n"
        "from pdx.tracking.run import RunLog; env = build(node, 'env')\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "log = RunLog(env, sys.argv[2], 'run', {'x': 1})\n"
        "for step in range(400): log.observe(step, {'train/loss': 1.0})\n"
        "log.flush()\n"
    )
    command = [sys.executable, "-c", code, env.outputs]
    started = [
        subprocess.Popen(
            [*command, f"run{i}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(6)
    ]
    for process in started:
        assert process.stdout and process.stdout.readline() == "ready\n"
    for process in started:
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
    for process in started:
        said = process.communicate(timeout=180)
        assert process.returncode == 0, said
    client, experiment = connect(env)
    runs = client.search_runs([experiment])
    assert {r.data.tags["pdx.run_id"] for r in runs} == {f"run{i}" for i in range(6)}
    for run in runs:
        assert len(client.get_metric_history(run.info.run_id, "train/loss")) == 400


def test_what_a_run_needs_of_mlflow_is_loaded_before_it_is_forked(env: Env):
    """A run of its own process would import a database's drivers each time: 1.5 s of 2."""
    connect(env)  # the driver's part: to make a database takes more
    code = f"""
import sys
import pdx.sweep.child
from pathlib import Path
from omegaconf import OmegaConf
from pdx.build import build
from pdx.paths import conf_dir
from pdx.tracking.run import RunLog
node = OmegaConf.load(conf_dir() / "env" / "local.yaml")
node.outputs = {str(env.outputs)!r}
before = set(sys.modules)
RunLog(build(node, "env"), "abc", "run", {{}}).observe(1, {{"a": 1.0}})
print(*(m for m in set(sys.modules) - before if m.startswith("sqlalchemy")))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
