"""Samplers and pruners of Optuna, from the files of conf/hydra/sweeper/."""

import importlib
import warnings
from collections.abc import Mapping
from typing import Any

from optuna.exceptions import ExperimentalWarning

from pdx.errors import SweepError

PACKAGES = ("optuna", "optunahub", "pdx")


def build_part(node: Mapping[str, Any], key: str) -> Any:
    """Construct a sampler or pruner.

    Raises:
        SweepError: a target outside Optuna, an unknown setting, a package that is not installed.
    """
    settings = dict(node)
    target = str(settings.pop("_target_", ""))
    module, _, name = target.rpartition(".")
    if module.split(".")[0] not in PACKAGES:
        raise SweepError(f"{key}: _target_={target}: must be a class of {', '.join(PACKAGES)}.")
    if name == "WilcoxonPruner":
        raise SweepError(
            f"{key}: _target_={target}: would take the evaluations of one run for independent "
            "measurements; use hydra/sweeper/pruner=wilcoxon, which compares runs over seeds."
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)  # TPE's groups, since 2020
            part = getattr(importlib.import_module(module), name)(**settings)
        if name in NEEDS:
            importlib.import_module(NEEDS[name])
    except ImportError as err:
        raise SweepError(
            f"{key}: {name} needs a package that is not installed ({err}); run "
            "pip install 'pdx[search]'."
        ) from err
    except (AttributeError, TypeError, ValueError) as err:
        raise SweepError(f"{key}: {target} cannot be made of {settings}: {err}.") from err
    return part


NEEDS = {"CmaEsSampler": "cmaes", "GPSampler": "torch", "QMCSampler": "scipy"}
