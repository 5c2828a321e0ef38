"""The record of a sweep: a parent run, over the runs that the sweep trains."""

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from mlflow.entities import Metric
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_GIT_COMMIT, MLFLOW_RUN_NOTE, MLFLOW_SOURCE_NAME

from pdx.env import Env
from pdx.errors import TrackingError
from pdx.files import free_lock
from pdx.provenance import provenance
from pdx.tracking.connect import TRAINING_VIEW, client_of, connect, find_run, sqlite_file


@dataclass(frozen=True)
class SweepLog:
    """The parent run of a sweep, as it stands in MLflow's store.

    Attributes:
        experiment, run_id: MLflow's own ids.
    """

    env: Env
    sweep_id: str
    client: MlflowClient
    experiment: str
    run_id: str

    @classmethod
    def open(
        cls, env: Env, sweep_id: str, question: str, command: str, num_runs: int
    ) -> "SweepLog":
        """Begin it, or go on with it."""
        client, experiment = connect(env)
        run_id = find_run(client, experiment, kind="sweep", sweep_id=sweep_id)
        if run_id is None:
            tags = {
                "pdx.kind": "sweep",
                "pdx.sweep_id": sweep_id,
                MLFLOW_RUN_NOTE: f"{question}\n\n`{command}`",
                MLFLOW_SOURCE_NAME: command,
                MLFLOW_GIT_COMMIT: provenance()["git_commit"] or "unknown",
            }
            run_id = client.create_run(experiment, run_name=sweep_id, tags=tags).info.run_id
            client.log_param(run_id, "num_runs", num_runs)
        client.update_run(run_id, status="RUNNING")
        return cls(env, sweep_id, client, experiment, run_id)

    @classmethod
    def find(cls, env: Env, sweep_id: str) -> "SweepLog | None":
        """As it was opened before; None if it never was."""
        client, experiment = connect(env)
        run_id = find_run(client, experiment, kind="sweep", sweep_id=sweep_id)
        return None if run_id is None else cls(env, sweep_id, client, experiment, run_id)

    @classmethod
    def known(cls, env: Env, sweep_id: str, experiment: str, run_id: str) -> "SweepLog":
        """As it was found by another process: the store is asked nothing."""
        return cls(env, sweep_id, client_of(env.mlflow_uri), experiment, run_id)

    def finish(self, counts: dict[str, int]) -> None:
        """Close the parent run."""
        now = int(time.time() * 1000)
        metrics = [Metric(f"runs/{name}", float(n), now, 0) for name, n in counts.items()]
        self.client.log_batch(self.run_id, metrics=metrics)
        done = counts["complete"] + counts["diverged"] == sum(counts.values())
        self.client.set_terminated(self.run_id, "FINISHED" if done else "FAILED")

    def attach(self, files: Iterable[Path]) -> None:
        """Our own tables and figures, beside MLflow's."""
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


def attach_to_sweep(env: Env, sweep_id: str, files: Iterable[Path]) -> str | None:
    """A sweep's report, made anew, under the sweep's parent run; why not, where there is none.

    Creates no store: a report is also made where nothing was ever trained.
    """
    uri = env.mlflow_uri
    if (database := sqlite_file(uri)) and not database.exists():
        return f"there is no {uri}"
    try:
        log = SweepLog.find(env, sweep_id)
    except TrackingError as err:
        return str(err)
    if log is None:
        return f"no run of {uri} is this sweep's parent"
    log.attach(files)
    return None
