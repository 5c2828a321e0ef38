"""MLflow: an index of what the run folders hold; the only file that imports it.

Everything goes through ``MlflowClient`` with explicit ids: no global run, so that a MLFLOW_RUN_ID
left in the environment cannot reopen another run, and any process can write under any parent.
"""

import importlib
import json
import logging
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# Else MLflow prints two lines of links for every run that ends on a server.
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")

from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    Metric,
    Param,
    RunTag,
)
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import (
    MLFLOW_GIT_COMMIT,
    MLFLOW_PARENT_RUN_ID,
    MLFLOW_RUN_NOTE,
    MLFLOW_SOURCE_NAME,
)

from pdx.env import Env
from pdx.errors import TrackingError
from pdx.files import free_lock, locked
from pdx.provenance import provenance

logging.getLogger("mlflow").setLevel(logging.WARNING)  # creating a database is no news
logging.getLogger("alembic").setLevel(logging.WARNING)

FLUSH_METRICS = 300  # a call costs 25 ms whether it carries one metric or hundreds
FLUSH_SECONDS = 5.0
MAX_BATCH = 1000  # MLflow's own limit of metrics a call
MAX_PARAMS = 100
STORES = (
    "mlflow.store.artifact.local_artifact_repo",
    "mlflow.store.tracking.rest_store",
    "mlflow.store.tracking.sqlalchemy_store",
    "sqlalchemy.dialects.sqlite",
)
FIRST_METRIC = "train/ce_loss"  # MLflow's compare page opens on the metric that was logged first
TRAINING_VIEW = "workflowType=machine_learning"  # MLflow's pages open on traces of chats otherwise


def connect(env: Env) -> tuple[MlflowClient, str]:
    """A client and the experiment's id; creates a SQLite store, so call it before any worker does.

    Raises:
        TrackingError: a server that cannot be reached.
    """
    uri = env.mlflow_uri
    try:
        if database := _sqlite_file(uri):
            _create_whole(database)
        client = _client(uri)
        experiment = client.get_experiment_by_name(env.experiment)
        if experiment is not None:
            return client, experiment.experiment_id
        artifacts = (env.paths.root.resolve() / "mlartifacts").as_uri()
        location = artifacts if database else None
        return client, client.create_experiment(env.experiment, artifact_location=location)
    except MlflowException as err:
        first = str(err).splitlines()[0][:300]
        raise TrackingError(
            f"env.tracking_uri={uri}: cannot be used ({first}); start the server "
            "(`pdx ui` serves the default store), or set env.tracking_uri=null for a SQLite file "
            "in the output directory."
        ) from err


def _sqlite_file(uri: str) -> Path | None:
    """The file of a SQLite store; None of a server."""
    if not uri.startswith("sqlite:///"):
        return None
    return Path(uri.removeprefix("sqlite:///").partition("?")[0])


def _create_whole(database: Path) -> None:
    """Create a SQLite store under another name first.

    MLflow takes seconds for its tables, and cannot use what a kill left half-made.
    """
    if database.exists():
        return
    with locked(database.with_name(f".{database.name}.lock")):
        half_made = database.with_name(f".{database.name}.new")
        if not database.exists():
            for left in half_made.parent.glob(f"{half_made.name}*"):
                left.unlink()  # its journal too
            _client(f"sqlite:///{half_made}").search_experiments(max_results=1)
            half_made.rename(database)


def _client(uri: str) -> MlflowClient:
    """A client that fails in seconds where there is no server, not after minutes of retries."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    return MlflowClient(tracking_uri=uri)


def load_stores() -> None:
    """Import what connecting imports, so that processes forked from this one need not: 1.5 s."""
    for module in STORES:
        importlib.import_module(module)


def experiment_link(env: Env) -> str:
    """The path of MLflow's table of runs; creates an empty store rather than show another one."""
    return f"/#/experiments/{connect(env)[1]}/runs?{TRAINING_VIEW}"


def runs_of(env: Env, experiment: str, curves: Iterable[str] = ()) -> list[dict[str, Any]]:
    """Every run of an experiment, whoever logged it: id, name, state, params, last metrics, tags.

    Of metrics named in ``curves`` also every step's value, the last where a step was logged twice.

    Raises:
        TrackingError: no such store or experiment.
    """
    client, _ = connect(env)
    found = client.get_experiment_by_name(experiment)
    if found is None:
        known = ", ".join(e.name for e in client.search_experiments(max_results=50))
        raise TrackingError(
            f"--experiment {experiment}: none of this name at {env.mlflow_uri}; known: {known}."
        )
    runs, token, history = [], None, client.get_metric_history
    while True:
        page = client.search_runs([found.experiment_id], max_results=1000, page_token=token)
        for run in page:
            ended = run.info.end_time
            runs.append(
                {
                    "run_id": run.info.run_id,
                    "name": run.info.run_name,
                    "state": run.info.status,
                    "seconds": (ended - run.info.start_time) / 1000 if ended else None,
                    "params": dict(run.data.params),
                    "metrics": dict(run.data.metrics),
                    "tags": dict(run.data.tags),
                    "curves": {
                        name: {m.step: m.value for m in history(run.info.run_id, name)}
                        for name in curves
                        if name in run.data.metrics
                    },
                }
            )
        token = page.token
        if not token:
            return runs


def attach_to(env: Env, run_id: str, files: Iterable[Path]) -> None:
    """Files under ``report`` of any run.

    Raises:
        TrackingError: no such run.
    """
    client, _ = connect(env)
    try:
        client.get_run(run_id)
    except MlflowException as err:
        raise TrackingError(f"--attach {run_id}: no such run at {env.mlflow_uri}.") from err
    for path in files:
        client.log_artifact(run_id, str(path), "report")


def attach_to_sweep(env: Env, sweep_id: str, files: Iterable[Path]) -> str | None:
    """A sweep's report, made anew, under the sweep's parent run; why not, where there is none.

    Creates no store: a report is also made where nothing was ever trained.
    """
    uri = env.mlflow_uri
    if (database := _sqlite_file(uri)) and not database.exists():
        return f"there is no {uri}"
    try:
        log = SweepLog(env, sweep_id)
    except TrackingError as err:
        return str(err)
    if log.run_id is None:
        return f"no run of {uri} is this sweep's parent"
    log.attach(files)
    return None


def _key(key: str) -> str:
    """A Hydra key as MLflow allows it: no +, @ and the like."""
    return "".join(c if c.isalnum() or c in "_-./ " else "." for c in key.lstrip("+~"))


def _find(client: MlflowClient, experiment: str, **tags: str) -> str | None:
    clauses = [f"tags.`pdx.{key}` = '{value}'" for key, value in tags.items()]
    found = client.search_runs([experiment], " and ".join(clauses), max_results=1)
    return found[0].info.run_id if found else None


class SweepLog:
    """The parent run of a sweep: looked up, or known from who looked it up before."""

    def __init__(
        self, env: Env, sweep_id: str, experiment: str | None = None, run_id: str | None = None
    ) -> None:
        self.env, self.sweep_id = env, sweep_id
        if experiment is not None:
            self.client, self.experiment, self.run_id = _client(env.mlflow_uri), experiment, run_id
            return
        self.client, self.experiment = connect(env)
        self.run_id = _find(self.client, self.experiment, kind="sweep", sweep_id=sweep_id)

    def start(self, question: str, command: str, num_runs: int) -> None:
        """Open the parent run, or go on with it."""
        if self.run_id is None:
            tags = {
                "pdx.kind": "sweep",
                "pdx.sweep_id": self.sweep_id,
                MLFLOW_RUN_NOTE: f"{question}\n\n`{command}`",
                MLFLOW_SOURCE_NAME: command,
                MLFLOW_GIT_COMMIT: provenance()["git_commit"] or "unknown",
            }
            run = self.client.create_run(self.experiment, run_name=self.sweep_id, tags=tags)
            self.run_id = run.info.run_id
            self.client.log_param(self.run_id, "num_runs", num_runs)
        self.client.update_run(self.run_id, status="RUNNING")

    def finish(self, counts: dict[str, int]) -> None:
        """Close the parent run."""
        assert self.run_id is not None
        now = int(time.time() * 1000)
        metrics = [Metric(f"runs/{name}", float(n), now, 0) for name, n in counts.items()]
        self.client.log_batch(self.run_id, metrics=metrics)
        done = counts["complete"] + counts["diverged"] == sum(counts.values())
        self.client.set_terminated(self.run_id, "FINISHED" if done else "FAILED")

    def attach(self, files: Iterable[Path]) -> None:
        """Our own tables and figures, beside MLflow's."""
        assert self.run_id is not None
        for path in files:
            self.client.log_artifact(self.run_id, str(path), "report")

    def close_lost(self, reasons: Mapping[str, str]) -> None:
        """Close runs and teachers whose process is gone: nothing shows as running that is not.

        A process holds the lock of its run's folder for as long as it lives.
        """
        for run in self.client.search_runs([self.experiment], "attributes.status = 'RUNNING'"):
            run_id = run.data.tags.get("pdx.run_id", "")
            lock = self.env.paths.run_lock(run_id)
            if run_id and lock.exists() and free_lock(lock):
                reason = reasons.get(run_id, "lost: its process is gone")
                self.client.set_tag(run.info.run_id, "pdx.reason", reason[:5000])
                self.client.set_terminated(run.info.run_id, "KILLED")

    def compare_link(self) -> str | None:
        """The path of MLflow's compare page over the sweep's runs."""
        query = f"tags.`pdx.kind` = 'run' and tags.`pdx.sweep_id` = '{self.sweep_id}'"
        runs = self.client.search_runs([self.experiment], query, max_results=100)
        if not runs:
            return None
        ids, experiments = (
            quote(json.dumps(names, separators=(",", ":")), safe="")
            for names in ([r.info.run_id for r in runs], [self.experiment])
        )
        return f"/#/compare-runs?runs={ids}&experiments={experiments}&{TRAINING_VIEW}"


def log_teacher(env: Env, run_id: str) -> None:
    """A teacher that was trained here, from its folder; nothing if it is there or was not."""
    path = env.paths.result(run_id)
    client, experiment = connect(env)
    if path.exists() and not _find(client, experiment, kind="teacher", run_id=run_id):
        log = RunLog(env, run_id, "teacher", {}, name=f"teacher {run_id}")
        log.finish(json.loads(path.read_text()), path.parent)


class RunLog:
    """One run: opened anew after a kill, metrics sent in batches."""

    def __init__(
        self,
        env: Env,
        run_id: str,
        kind: str,
        params: dict[str, Any],
        parent: SweepLog | None = None,
        name: str | None = None,
        tags: dict[str, str] | None = None,
    ) -> None:
        self.client, self.experiment = (
            (parent.client, parent.experiment) if parent else connect(env)
        )
        sweep_id = parent.sweep_id if parent else "none"
        named = {"run_id": run_id, "kind": kind, "sweep_id": sweep_id}
        lock = env.paths.run_lock(run_id)
        lock.parent.mkdir(parents=True, exist_ok=True)
        lock.touch()  # free, and thus seen to be lost, if we are killed before the run takes it
        self._buffer: list[Metric] = []
        self._seen = False
        self._flushed = time.monotonic()
        found = _find(self.client, self.experiment, **named)
        if found:
            self.run_id = found
            self.client.update_run(found, status="RUNNING")
            if "pdx.reason" in self.client.get_run(found).data.tags:
                self.client.delete_tag(found, "pdx.reason")  # of the end that is undone
            return
        all_tags = {f"pdx.{key}": value for key, value in (named | (tags or {})).items()}
        all_tags[MLFLOW_GIT_COMMIT] = provenance()["git_commit"] or "unknown"
        if parent is not None:
            assert parent.run_id is not None
            all_tags[MLFLOW_PARENT_RUN_ID] = parent.run_id
        run = self.client.create_run(self.experiment, run_name=name or run_id, tags=all_tags)
        self.run_id = run.info.run_id
        entries = [Param(_key(key), str(value)) for key, value in params.items()]
        for start in range(0, len(entries), MAX_PARAMS):
            self.client.log_batch(self.run_id, params=entries[start : start + MAX_PARAMS])

    def dataset(self, name: str, digest: str, source: str, context: str = "train") -> None:
        """What the run read, in MLflow's dataset column."""
        dataset = Dataset(name=name, digest=digest, source_type="local", source=source)
        tag = InputTag("mlflow.data.context", context)
        for last in (False, False, True):
            try:
                return self.client.log_inputs(self.run_id, [DatasetInput(dataset, [tag])])
            except MlflowException:
                # MLflow looks a dataset up and then inserts it: of two runs that end at once one
                # fails on its unique key, and finds it there when it asks again.
                if last:
                    raise

    def observe(self, step: int, metrics: dict[str, float]) -> bool:
        """Queue one step's metrics; never asks the run to stop."""
        now = int(time.time() * 1000)
        self._seen = True
        ordered = sorted(metrics, key=lambda key: key != FIRST_METRIC)
        self._buffer += [Metric(key, metrics[key], now, step) for key in ordered]
        late = time.monotonic() - self._flushed > FLUSH_SECONDS
        if late or len(self._buffer) >= FLUSH_METRICS:
            self.flush()
        return False

    def flush(self) -> None:
        """Send what is queued."""
        for start in range(0, len(self._buffer), MAX_BATCH):
            batch = self._buffer[start : start + MAX_BATCH]
            self.client.log_batch(self.run_id, metrics=batch)
        self._buffer, self._flushed = [], time.monotonic()

    def finish(self, result: dict[str, Any], folder: Path) -> None:
        """Final metrics, derived sizes, the resolved config; status by how it ended.

        A run that was finished before, by another sweep, brings its curve along from its folder.
        """
        if not self._seen and (folder / "metrics.jsonl").exists():
            for line in (folder / "metrics.jsonl").read_text().splitlines():
                metrics = json.loads(line)
                self.observe(metrics.pop("step"), metrics)
        self.flush()
        now, step = int(time.time() * 1000), int(result["facts"]["num_steps"])
        whole = result["status"] != "pruned"  # what a pruned run last measured is not final
        final = {f"final/{key}": value for key, value in result["metrics"].items() if whole}
        sizes = {
            f"size/{key}": float(value)
            for key, value in result["facts"].items()
            if isinstance(value, (int, float))
        }
        metrics = [Metric(k, float(v), now, step) for k, v in (final | sizes).items()]
        tags = [RunTag("pdx.state", result["status"])]
        if result["reason"]:
            tags.append(RunTag("pdx.reason", result["reason"]))
        self.client.log_batch(self.run_id, metrics=metrics, tags=tags)
        self.client.log_artifact(self.run_id, str(folder / "config.yaml"))
        self.client.set_terminated(self.run_id, "FINISHED")

    def end(self, state: str, reason: str, status: str) -> None:
        """The run ended without a result: say how and why, in pdx's words and in MLflow's."""
        self.flush()
        self.client.set_tag(self.run_id, "pdx.state", state)
        self.client.set_tag(self.run_id, "pdx.reason", reason[:5000])
        self.client.set_terminated(self.run_id, status)
