"""The record of a sweep: a parent run, over the runs that the sweep trains."""

import json
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import quote

from mlflow.entities import Metric
from mlflow.utils.mlflow_tags import MLFLOW_GIT_COMMIT, MLFLOW_RUN_NOTE, MLFLOW_SOURCE_NAME

from pdx.env import Env
from pdx.errors import TrackingError
from pdx.files import free_lock
from pdx.provenance import provenance
from pdx.tracking.connect import TRAINING_VIEW, client_of, connect, find_run, sqlite_file


class SweepLog:
    """The parent run of a sweep: looked up, or known from who looked it up before."""

    def __init__(
        self, env: Env, sweep_id: str, experiment: str | None = None, run_id: str | None = None
    ) -> None:
        self.env, self.sweep_id = env, sweep_id
        if experiment is not None:
            self.client = client_of(env.mlflow_uri)
            self.experiment, self.run_id = experiment, run_id
            return
        self.client, self.experiment = connect(env)
        self.run_id = find_run(self.client, self.experiment, kind="sweep", sweep_id=sweep_id)

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


def attach_to_sweep(env: Env, sweep_id: str, files: Iterable[Path]) -> str | None:
    """A sweep's report, made anew, under the sweep's parent run; why not, where there is none.

    Creates no store: a report is also made where nothing was ever trained.
    """
    uri = env.mlflow_uri
    if (database := sqlite_file(uri)) and not database.exists():
        return f"there is no {uri}"
    try:
        log = SweepLog(env, sweep_id)
    except TrackingError as err:
        return str(err)
    if log.run_id is None:
        return f"no run of {uri} is this sweep's parent"
    log.attach(files)
    return None
