"""The only place where a string becomes a class."""

import importlib
import json
from collections.abc import Collection, Mapping
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from functools import lru_cache
from typing import Any, get_args, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from pdx.errors import ConfigError

# What the rest of pdx asks of every value's class, and of one on these axes.
DECLARED = {
    "": ("version",),
    "data": ("vocab_size", "seq_len", "domains"),
    "text": ("exists", "needs_teacher", "needs_weak_teacher", "part"),
    "teacher": ("exists", "is_same"),
    "signal": ("stored", "closed", "faithful", "is_full"),
    "temperature": ("constant", "needed_temperatures", "needs_spread", "tempers_student"),
    "routing": ("needs_entropy", "shift", "domains"),
    "store": ("exists",),
    "hidden": ("exists", "weight", "student_layers"),
    "loss": (
        "needs_teacher",
        "needs_closed_signal",
        "needs_full_signal",
        "needs_logits",
        "is_divergence",
        "is_shift_invariant",
    ),
}
KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def value_name(component: Any) -> str:
    """What a value is called in messages: its class's file, as conf/ calls it too."""
    return type(component).__module__.rpartition(".")[2]


def did_you_mean(name: str, known: Collection[str]) -> str:
    """`` Did you mean 'x'?`` or nothing."""
    hint = get_close_matches(name, known, n=1)
    return f" Did you mean {hint[0]!r}?" if hint else ""


def unknown_field(cls: type, key: str, name: str) -> ConfigError:
    """What a value says of a key that it lacks: why, where the class knows (its ``lacks``)."""
    known = sorted(f.name for f in fields(cls))
    if name in getattr(cls, "lacks", {}):
        return ConfigError(f"{key}.{name}: {cls.lacks[name]}.")  # type: ignore[attr-defined]
    return ConfigError(
        f"{key}.{name}: unknown field of {cls.__name__}.{did_you_mean(name, known)} "
        f"Known: {', '.join(known) or 'none'}."
    )


def find_class(target: str, key: str, packages: Collection[str] = ()) -> type:
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
    has = {f.name for f in fields(cls)}
    asked = [*DECLARED[""], *DECLARED.get(key, ())]
    if key == "loss" and getattr(cls, "needs_teacher", True) is False:
        asked.append("own_weight")  # no mix weighs a term that is not the teacher's
    if key == "loss" and getattr(cls, "needs_full_signal", False):
        asked.append("window_tail_of")
    lacking = [name for name in asked if name not in has | {*dir(cls)}]
    if lacking:
        raise ConfigError(
            f"{key}._target_={target}: does not say {', '.join(lacking)}; give the class each of "
            "them as a ClassVar, as the values that ship with pdx do."
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
            raise unknown_field(cls, key, str(name))
    for name in known:
        if name not in given:
            raise ConfigError(f"{key}.{name}: missing; conf/{key}/*.yaml must state every field.")
    try:  # the dataclass is the schema: merging checks types, to_object checks completeness
        return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(cls), given))
    except MissingMandatoryValue as err:
        name = f"{key}.{err.full_key}"
        raise ConfigError(f"{name}=???: must be given; pass {name}=VALUE.") from err
    except OmegaConfBaseException as err:
        field = (err.full_key or "").partition("[")[0]
        if field not in given:
            raise ConfigError(f"{key}.{field or '?'}: {str(err).splitlines()[0]}") from err
        value = "null" if given[field] is None else given[field]
        kind = _kind(get_type_hints(cls)[field])
        raise ConfigError(f"{key}.{field}={value}: must be {kind}.") from err


def _kind(hint: Any) -> str:
    """A field's type in words: ``int | None`` -> a whole number or null."""
    if hint is type(None):
        return "null"
    if isinstance(hint, type) and hint in KINDS:
        return KINDS[hint]
    parts = [_kind(part) for part in get_args(hint)]
    return f"a list, each item {parts[0]}" if str(hint).startswith("list") else " or ".join(parts)


def check(ok: bool, key: str, value: Any, allowed: str) -> None:
    """Raise the house's error for a value out of range: for components' ``__post_init__``."""
    assert isinstance(ok, bool), f"check({ok!r}, ...): the condition comes first"
    if not ok:
        raise ConfigError(f"{key}={value}: {allowed}.")
