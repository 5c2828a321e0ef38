"""MLflow: an index of what the run folders hold; the only folder that imports it.

Everything goes through ``MlflowClient`` with explicit ids: no global run, so that a MLFLOW_RUN_ID
left in the environment cannot reopen another run, and any process can write under any parent.
"""

import logging
import os

# Before anything here imports MLflow.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# Else MLflow prints two lines of links for every run that ends on a server.
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
logging.getLogger("mlflow").setLevel(logging.WARNING)  # creating a database is no news
logging.getLogger("alembic").setLevel(logging.WARNING)
