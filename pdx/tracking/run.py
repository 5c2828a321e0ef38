"""The record of a run: opened before its first step, written along the way, closed as it ended."""

import json
import time
from pathlib import Path
from typing import Any

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_GIT_COMMIT, MLFLOW_PARENT_RUN_ID

from pdx.env import Env
from pdx.provenance import provenance
from pdx.tracking.connect import connect, find_run
from pdx.tracking.sweep import SweepLog

FLUSH_METRICS = 300  # a call costs 25 ms whether it carries one metric or hundreds
FLUSH_SECONDS = 5.0
MAX_BATCH = 1000  # MLflow's own limit of metrics a call
MAX_PARAMS = 100
FIRST_METRIC = "train/ce_loss"  # MLflow's compare page opens on the metric that was logged first


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
        found = find_run(self.client, self.experiment, **named)
        if found:
            self.run_id = found
            self.client.update_run(found, status="RUNNING")
            if "pdx.reason" in self.client.get_run(found).data.tags:
                self.client.delete_tag(found, "pdx.reason")  # of the end that is undone
            return
        all_tags = {f"pdx.{key}": value for key, value in (named | (tags or {})).items()}
        all_tags[MLFLOW_GIT_COMMIT] = provenance()["git_commit"] or "unknown"
        if parent is not None:
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


def log_teacher(env: Env, run_id: str) -> None:
    """A teacher that was trained here, from its folder; nothing if it is there or was not."""
    path = env.paths.result(run_id)
    client, experiment = connect(env)
    if path.exists() and not find_run(client, experiment, kind="teacher", run_id=run_id):
        log = RunLog(env, run_id, "teacher", {}, name=f"teacher {run_id}")
        log.finish(json.loads(path.read_text()), path.parent)


def _key(key: str) -> str:
    """A Hydra key as MLflow allows it: no +, @ and the like."""
    return "".join(c if c.isalnum() or c in "_-./ " else "." for c in key.lstrip("+~"))
