"""From ``env`` to MLflow's store: reached, or created whole; and what is asked of it by tags."""

import importlib
import os
from pathlib import Path

from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from pdx.env import Env
from pdx.errors import TrackingError
from pdx.files import locked

STORES = (
    "mlflow.store.artifact.local_artifact_repo",
    "mlflow.store.tracking.rest_store",
    "mlflow.store.tracking.sqlalchemy_store",
    "sqlalchemy.dialects.sqlite",
)
TRAINING_VIEW = "workflowType=machine_learning"  # MLflow's pages open on traces of chats otherwise


def connect(env: Env) -> tuple[MlflowClient, str]:
    """A client and the experiment's id; creates a SQLite store, so call it before any worker does.

    Raises:
        TrackingError: a server that cannot be reached.
    """
    uri = env.mlflow_uri
    try:
        if database := sqlite_file(uri):
            _create_whole(database)
        client = client_of(uri)
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


def sqlite_file(uri: str) -> Path | None:
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
            client_of(f"sqlite:///{half_made}").search_experiments(max_results=1)
            half_made.rename(database)


def client_of(uri: str) -> MlflowClient:
    """A client that fails in seconds where there is no server, not after minutes of retries."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    return MlflowClient(tracking_uri=uri)


def load_stores() -> None:
    """Import what connecting imports, so that processes forked from this one need not: 1.5 s."""
    for module in STORES:
        importlib.import_module(module)


def find_run(client: MlflowClient, experiment: str, **tags: str) -> str | None:
    """The run that carries all of these tags of pdx's, if there is one."""
    clauses = [f"tags.`pdx.{key}` = '{value}'" for key, value in tags.items()]
    found = client.search_runs([experiment], " and ".join(clauses), max_results=1)
    return found[0].info.run_id if found else None


def experiment_link(env: Env) -> str:
    """The path of MLflow's table of runs; creates an empty store rather than show another one."""
    return f"/#/experiments/{connect(env)[1]}/runs?{TRAINING_VIEW}"
