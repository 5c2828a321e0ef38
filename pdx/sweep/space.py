"""The space of a sweep: axes that go together or under a condition, and what is left out."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from pdx.build import did_you_mean
from pdx.errors import SweepError
from pdx.sweep.settings import Axis, Setting

LISTS = {  # by key, one as it may stand in a sweep file
    "zip": "[[student, optim.peak_lr]]",
    "forbid": "[{student: s10k, signal.top_k: 256, reason: more than it can learn}]",
}


@dataclass(frozen=True)
class Forbidden:
    """Combinations that are not run.

    Attributes:
        match: values by axis; a combination that has one of each is left out.
        reason: why, in words: the plan prints it.
    """

    match: dict[str, tuple[Any, ...]]
    reason: str

    def forbids(self, params: Mapping[str, Any]) -> bool:
        """Whether a combination is left out."""
        return all(k in params and params[k] in values for k, values in self.match.items())


@dataclass(frozen=True)
class Rules:
    """What ties axes to each other.

    Attributes:
        zipped: groups of axes whose values go together, first with first.
        when: for an axis, the values of others at which it exists; elsewhere it is not set.
        forbidden: what is left out.
    """

    zipped: tuple[tuple[str, ...], ...] = ()
    when: dict[str, dict[str, tuple[Any, ...]]] | None = None
    forbidden: tuple[Forbidden, ...] = ()

    @property
    def read(self) -> set[str]:
        """Axes whose values some rule asks for."""
        conditions = {key for condition in (self.when or {}).values() for key in condition}
        return conditions | {key for f in self.forbidden for key in f.match}

    def unzipped(self, key: str) -> "Rules":
        """The same rules for an axis that got other values: it goes with no other any more."""
        zipped = (tuple(k for k in group if k != key) for group in self.zipped)
        return replace(self, zipped=tuple(group for group in zipped if len(group) > 1))

    def among(self, keys: Collection[str]) -> "Rules":
        """The same rules where only these axes are listed."""
        when = {k: c for k, c in (self.when or {}).items() if k in keys}
        return replace(self, when=when)

    def condition(self, key: str) -> dict[str, tuple[Any, ...]]:
        """The values of other axes beside which an axis exists; empty: always."""
        return (self.when or {}).get(key, {})

    def exists(self, key: str, params: Mapping[str, Any]) -> bool:
        """Whether an axis exists beside these values of others."""
        condition = self.condition(key)
        return all(k in params and params[k] in values for k, values in condition.items())

    def reason_against(self, params: Mapping[str, Any]) -> str | None:
        """Why a combination is left out, or None."""
        return next((f.reason for f in self.forbidden if f.forbids(params)), None)

    def order(self, keys: Collection[str]) -> list[str]:
        """Axes, each after those that its condition reads."""
        left, ordered = list(keys), []
        while left:
            ready = [k for k in left if not set(self.condition(k)) & set(left)]
            if not ready:
                raise SweepError(
                    f"when: {', '.join(left)} each wait for another; break the circle."
                )
            ordered += ready
            left = [k for k in left if k not in ready]
        return ordered


def rules_of(block: Mapping[str, Any], axes: Mapping[str, Axis]) -> Rules:
    """``zip``, ``when`` and ``forbid`` of a sweep file, checked against its axes.

    Raises:
        SweepError: an axis that the sweep does not have, unequal lengths, no reason given.
    """
    when = {
        _axis("when", key, axes): {
            _axis(f"when.{key}", k, axes): _values(f"when.{key}.{k}", v, axes[k])
            for k, v in _mapping(f"when.{key}", condition).items()
        }
        for key, condition in _mapping("when", block.get("when") or {}).items()
    }
    zipped = []
    for group in _list("zip", block.get("zip") or []):
        keys = tuple(_axis("zip", key, axes) for key in _list("zip", group))
        lengths = {key: len(_listed("zip", key, axes[key])) for key in keys}
        if len(set(lengths.values())) != 1:
            said = ", ".join(f"{key} has {n}" for key, n in lengths.items())
            raise SweepError(
                f"zip={list(keys)}: {said} values; axes that go together have as many "
                "each; list equally many."
            )
        if twice := [key for key in keys if any(key in other for other in zipped)]:
            raise SweepError(f"zip={list(keys)}: {twice[0]} is in another group; name it once.")
        zipped.append(keys)
    forbidden = []
    for entry in _list("forbid", block.get("forbid") or []):
        match = dict(_mapping("forbid", entry))
        reason = match.pop("reason", None)
        if not reason or not match:
            raise SweepError(
                f"forbid={entry}: must name values by axis and say why, such as "
                "{student: s10k, signal.top_k: 256, reason: more than it can learn}."
            )
        match = {
            _axis("forbid", k, axes): _values(f"forbid.{k}", v, axes[k]) for k, v in match.items()
        }
        forbidden.append(Forbidden(match, str(reason)))
    rules = Rules(tuple(zipped), when, tuple(forbidden))
    rules.order(axes)
    return rules


def _mapping(key: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise SweepError(f"{key}={value}: must be values by axis, such as {{loss: jsd}}.")
    return value


def _list(key: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise SweepError(f"{key}={value}: must be a list, such as {LISTS[key]}.")
    return value


def _axis(where: str, key: str, axes: Mapping[str, Axis]) -> str:
    if key not in axes:
        raise SweepError(
            f"{where}: {key} is no axis of this sweep.{did_you_mean(key, axes)} "
            f"Known: {', '.join(axes)}."
        )
    return key


def _listed(where: str, key: str, axis: Axis) -> tuple[Setting, ...]:
    if not isinstance(axis, tuple):
        raise SweepError(f"{where}: {key} is an interval; list its values, or leave it out here.")
    return axis


def _values(where: str, wanted: Any, axis: Axis) -> tuple[Any, ...]:
    settings = _listed(where, where.rpartition(".")[2], axis)
    values = tuple(wanted) if isinstance(wanted, list) else (wanted,)
    known = [s.value for s in settings]
    for value in values:
        if value not in known:
            raise SweepError(f"{where}={value}: is no value of that axis. Known: {known}.")
    return values


Combination = dict[str, Setting]


def values_of(combination: Combination) -> dict[str, Any]:
    """Values by axis."""
    return {key: setting.value for key, setting in combination.items()}


def combinations(axes: Mapping[str, tuple[Setting, ...]], rules: Rules) -> Iterator[Combination]:
    """Every combination, those that are forbidden included.

    Combinations that differ only in axes that do not exist there are one.
    """
    group_of = {key: group for group in rules.zipped for key in group}
    groups = list(dict.fromkeys(group_of.get(key, (key,)) for key in axes))
    columns = [list(zip(*(axes[key] for key in group), strict=True)) for group in groups]
    order, seen = rules.order(axes), set()
    for chosen in product(*columns):
        every = {
            key: setting
            for group, settings in zip(groups, chosen, strict=True)
            for key, setting in zip(group, settings, strict=True)
        }
        kept: Combination = {}
        for key in order:
            if rules.exists(key, values_of(kept)):
                kept[key] = every[key]
        combination = {key: kept[key] for key in axes if key in kept}
        label = tuple(s.override for s in combination.values())
        if len(combination) == len(axes) or label not in seen:
            seen.add(label)
            yield combination
