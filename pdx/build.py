"""The only place where a string becomes a class."""

import importlib
import json
from collections.abc import Collection, Mapping
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from pdx.errors import ConfigError


def did_you_mean(name: str, known: Collection[str]) -> str:
    """`` Did you mean 'x'?`` or nothing."""
    hint = get_close_matches(name, known, n=1)
    return f" Did you mean {hint[0]!r}?" if hint else ""


def find_class(target: str, key: str, packages: Collection[str]) -> type:
    """Import the dataclass that ``target`` names, from pdx or a package the user allowed."""
    if target.split(".")[0] not in {"pdx", *packages}:
        raise ConfigError(
            f"{key}._target_={target}: targets must live under 'pdx.' or in a package named in "
            f"env.packages={sorted(packages)}; add the package there if you trust its code."
        )
    module_name, _, class_name = target.rpartition(".")
    try:
        cls = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError, ValueError) as err:
        raise ConfigError(
            f"{key}._target_={target}: cannot be imported ({err}); name a class as module.Class."
        ) from err
    if not (isinstance(cls, type) and is_dataclass(cls)):
        raise ConfigError(
            f"{key}._target_={target}: is no dataclass; a component is a frozen dataclass whose "
            "fields are its settings."
        )
    return cls


def build(node: DictConfig | Mapping[str, Any], key: str, packages: Collection[str] = ()) -> Any:
    """Type-check ``node`` against its target dataclass and construct it.

    Raises:
        ConfigError: unknown key, missing key, wrong type, value out of range, or a target outside
            ``pdx`` and the allowed packages.
    """
    given = OmegaConf.to_container(node, resolve=True) if isinstance(node, DictConfig) else node
    assert isinstance(given, Mapping)
    return _build(json.dumps(given), key, tuple(packages))


@lru_cache(maxsize=4096)  # the points of a grid share most of their parts, which are frozen
def _build(node: str, key: str, packages: tuple[str, ...]) -> Any:
    given = json.loads(node)
    if "_target_" not in given:
        raise ConfigError(f"{key}._target_: missing; name the class of this value as module.Class.")
    cls = find_class(str(given.pop("_target_")), key, packages)
    known = [f.name for f in fields(cls)]
    for name in given:
        if name not in known:
            raise ConfigError(
                f"{key}.{name}: unknown field of {cls.__name__}.{did_you_mean(str(name), known)} "
                f"Known: {', '.join(sorted(known))}."
            )
    for name in known:
        if name not in given:
            raise ConfigError(f"{key}.{name}: missing; conf/{key}/*.yaml must state every field.")
    try:  # the dataclass is the schema: merging checks types, to_object checks completeness
        return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(cls), given))
    except MissingMandatoryValue as err:
        name = f"{key}.{err.full_key}"
        raise ConfigError(f"{name}=???: must be given; pass {name}=VALUE.") from err
    except OmegaConfBaseException as err:
        raise ConfigError(f"{key}.{err.full_key or '?'}: {str(err).splitlines()[0]}") from err


def check(ok: bool, key: str, value: Any, allowed: str) -> None:
    """Raise the house's error for a value out of range: for components' ``__post_init__``."""
    if not ok:
        raise ConfigError(f"{key}={value}: {allowed}.")
