"""What pdx shares with Hydra: a task run as its application, its options, its errors in our words.

Nothing heavy is imported before a verb needs it.
"""

import re
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

HYDRA_VALUED = (
    "--config-dir",
    "-cd",
    "--config-path",
    "-cp",
    "--config-name",
    "-cn",
    "--cfg",
    "-c",
)
HYDRA_VALUED += ("--package", "-p", "--experimental-rerun")


def run_task(task: Callable[[Any], Any], arguments: list[str]) -> None:
    """Run ``task`` as a Hydra application over pdx's own configs.

    Raises:
        PdxError: what a single run's task raised; Hydra does not see it, for it would print more.
    """
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from hydra_plugins.pdx_sweeper import register
    from pdx.errors import PdxError
    from pdx.paths import conf_dir

    kept: list[PdxError] = []

    @wraps(task)
    def keeping(cfg: Any) -> Any:
        try:
            return task(cfg)
        except PdxError as err:
            if HydraConfig.get().mode != RunMode.RUN:
                raise  # a sweeper must know
            kept.append(err)

    register()
    sys.argv = ["pdx", *_options_first(arguments)]
    hydra.main(config_path=str(conf_dir()), config_name="config", version_base="1.3")(keeping)()
    if kept:
        raise kept[0]


def _options_first(arguments: list[str]) -> list[str]:
    """Hydra's parser wants overrides side by side; a user writes them as they come to mind."""
    options, overrides = _parted(arguments)
    return [*options, *overrides]


def hydras_own(arguments: list[str]) -> tuple[list[str], list[str]]:
    """What is Hydra's to read, its options and overrides of its own config, and the rest."""
    options, overrides = _parted(arguments)
    own = [o for o in overrides if o.lstrip("+~").startswith(("hydra.", "hydra/"))]
    return [*options, *own], [o for o in overrides if o not in own]


def _parted(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Options with their values, and overrides."""
    options, overrides = [], []
    rest = iter(arguments)
    for argument in rest:
        if not argument.startswith("-"):
            overrides.append(argument)
            continue
        options.append(argument)
        if argument in HYDRA_VALUED:
            options += [value for value in [next(rest, None)] if value is not None]
    return options, overrides


def hydras_errors() -> tuple[type[Exception], ...]:
    """Roots of what Hydra and OmegaConf raise, for an ``except``: imported once one is due."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    return HydraException, OmegaConfBaseException


def message_of(err: Exception) -> str:
    """The message of an error in the command line that Hydra or OmegaConf found."""
    from hydra.errors import (
        ConfigCompositionException,
        MissingConfigException,
        OverrideParseException,
    )
    from omegaconf.errors import ConfigAttributeError, ConfigKeyError

    from pdx.build import did_you_mean, find_class, unknown_field

    inner = err.__cause__
    if isinstance(err, MissingConfigException) and err.missing_cfg_file and err.options:
        axis, _, value = err.missing_cfg_file.rpartition("/")
        if axis == "hydra/launcher":
            from pdx.sweep.launchers import EXTRAS, missing_extra

            if value in EXTRAS:
                return missing_extra(value)
        return (
            f"{axis}={value}: no such value.{did_you_mean(value, err.options)} "
            f"Known: {', '.join(err.options)}; `pdx axes` says what each is."
        )
    if isinstance(err, OverrideParseException):
        from pdx.sweep.settings import grammar_error

        return grammar_error(err)
    several = re.match(r"Ambiguous value for argument '(.+?)'$", str(err).partition("\n")[0])
    if isinstance(err, ConfigCompositionException) and several:
        key, _, value = several[1].partition("=")
        return (
            f"{key}={value}: names several values for one run; add -m to run each of them, or "
            f"write '{key}=[{value}]' for one list."
        )
    if isinstance(inner, (ConfigAttributeError, ConfigKeyError)) and inner.parent_node is not None:
        target, key = inner.parent_node.get("_target_"), str(inner.full_key).rpartition(".")[0]
        cls = find_class(str(target), key) if str(target).startswith("pdx.") else object
        if inner.key in getattr(cls, "lacks", {}):
            return str(unknown_field(cls, key, str(inner.key)))
        known = [k for k in map(str, inner.parent_node) if k != "hydra" and k[0] != "_"]
        return (
            f"{inner.full_key}: unknown key.{did_you_mean(str(inner.key), known)} "
            f"Known: {', '.join(sorted(known))}."
        )
    return " ".join(f"{err} {inner or ''}".split())


def other_sweeper(arguments: list[str]) -> bool:
    """Hydra's own sweepers work too: each job is then one ``pdx train``."""
    return any(a.startswith("hydra/sweeper=") and a != "hydra/sweeper=pdx" for a in arguments)


def choices() -> dict[str, Any]:
    """What the command line set: a single run's params in MLflow."""
    from hydra.core.hydra_config import HydraConfig

    pairs = (o.partition("=") for o in HydraConfig.get().overrides.task)
    return {key.lstrip("+~"): value for key, _, value in pairs}
