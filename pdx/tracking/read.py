"""The runs of any experiment, whoever logged them: read for a report, which is then attached."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException

from pdx.env import Env
from pdx.errors import TrackingError
from pdx.tracking.connect import connect


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
