"""A search: what a sampler draws from, and the runs that its draws become."""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, Literal, TypeGuard

from pdx.build import did_you_mean
from pdx.config import run_of_resolved
from pdx.errors import SweepError
from pdx.facts import facts_of
from pdx.sweep.composer import Composer, Config, is_field, set_fields
from pdx.sweep.confirm import Confirm, confirm_of
from pdx.sweep.plan import Point
from pdx.sweep.settings import Axis, Interval, Setting
from pdx.sweep.space import Forbidden, Rules

if TYPE_CHECKING:
    from pdx.sweep.definition import Definition

MAX_TEMPLATES = 512
SEEDS = ("train.seed", "teacher.seed", "signal.seed", "store.seed", "text.seed")
BAD = 1e9  # what a diverged run is told to have measured where it measured nothing
Suggest = Callable[[str, Axis], Any]


@dataclass(frozen=True)
class Method:
    """How the runs of a sweep are chosen and compared.

    Attributes:
        sampler, pruner: nodes with a ``_target_`` in Optuna, or empty: a grid, no pruning.
        num_runs: how many runs a search draws in all.
        objectives: metrics or facts of a result to minimize; ``-name`` to maximize.
        constraints: upper bounds by metric or fact.
        confirm: how the best of a search are run again, or None.
    """

    sampler: dict[str, Any]
    pruner: dict[str, Any]
    num_runs: int | None
    objectives: list[str]
    constraints: dict[str, float]
    confirm: Confirm | None = None

    @property
    def is_search(self) -> bool:
        """Whether a sampler draws the runs."""
        return bool(self.sampler)

    @property
    def directions(self) -> list[Literal["minimize", "maximize"]]:
        """What is wanted of each objective."""
        return ["maximize" if o.startswith("-") else "minimize" for o in self.objectives]

    def values(self, result: Mapping[str, Any]) -> list[float]:
        """The objectives of a finished run; of a diverged one, bad and finite.

        Raises:
            SweepError: a name that the result does not have.
        """
        return [
            _of(result, o.removeprefix("-"), -BAD if o.startswith("-") else BAD)
            for o in self.objectives
        ]

    def violations(self, result: Mapping[str, Any]) -> dict[str, float]:
        """How far a finished run lies beyond each bound; at most 0 where it keeps to it."""
        return {k: _of(result, k, BAD) - bound for k, bound in self.constraints.items()}

    def check(self) -> None:
        """Refuse what does not go together.

        Raises:
            SweepError: as the message says.
        """
        if self.is_search and (self.num_runs is None or self.num_runs < 1):
            raise SweepError(
                f"hydra.sweeper.num_runs={self.num_runs}: a search needs to know how many runs to "
                "draw; set it to at least 1 (in a sweep file: search.num_runs)."
            )
        if not self.is_search and self.num_runs is not None:
            raise SweepError(
                f"hydra.sweeper.num_runs={self.num_runs}: counts the runs of a search, and this is "
                "a grid; drop it, or search with hydra/sweeper/sampler=tpe."
            )
        if not self.objectives:
            raise SweepError("hydra.sweeper.objectives=[]: name at least one, such as [val/loss].")
        if self.pruner and self.objectives != ["val/loss"]:
            raise SweepError(
                f"hydra/sweeper/pruner={self.pruner['_target_'].rpartition('.')[2]}: compares "
                f"val/loss along the way, and objectives={self.objectives}; use "
                "hydra.sweeper.objectives=[val/loss], or hydra/sweeper/pruner=none."
            )
        if self.confirm is not None:
            self.confirm.check(self.is_search, self.objectives)

    @staticmethod
    def from_json(plain: Mapping[str, Any]) -> "Method":
        """What ``asdict`` made; plans of before ``confirm`` have none."""
        return Method(**{**plain, "confirm": confirm_of(plain.get("confirm"))})


@dataclass(frozen=True)
class Search:
    """The space of a search, composed: a draw becomes a run without reading conf/.

    Attributes:
        base: overrides of every run.
        axes: as in the definition; lists are drawn from as categories.
        templates: the config of each choice of groups, by the overrides that choose them.
    """

    base: tuple[str, ...]
    axes: dict[str, Axis]
    rules: Rules
    templates: dict[str, Config]

    def draw(self, suggest: Suggest) -> list[Setting]:
        """One run's settings, each axis drawn after those that its condition reads."""
        drawn: dict[str, Setting] = {}
        for key in self.rules.order(self.axes):
            if self.rules.exists(key, {k: s.value for k, s in drawn.items()}):
                axis = self.axes[key]
                value = suggest(key, axis)
                if isinstance(axis, Interval):
                    drawn[key] = axis.setting(value)
                else:
                    drawn[key] = next(s for s in axis if category(s.value) == value)
        return [drawn[key] for key in self.axes if key in drawn]

    def point(self, settings: Sequence[Setting]) -> Point:
        """The run of a draw.

        Raises:
            ConfigError: it cannot be run.
        """
        fields = [s for s in settings if is_field(s)]
        config = set_fields(self.templates[_template_key(settings)], fields)
        assert config is not None, "refused when the search was planned"
        run, env = run_of_resolved(config)
        params = {s.key: s.value for s in settings}
        overrides = [*self.base, *(s.override for s in settings)]
        return Point(run.run_id, "search", params, overrides, config, facts_of(run, env))

    def examples(self) -> Iterator[list[Setting]]:
        """Draws from the corners of the space: what they refuse, the search is refused for."""
        for end in ("low", "high"):
            groups = [a for a in self.axes.values() if _is_group(a)]
            for chosen in product(*groups):
                by_key = {s.key: s for s in chosen}

                def suggest(_: str, axis: Axis, end: str = end, by_key: dict = by_key) -> Any:
                    if isinstance(axis, Interval):
                        return getattr(axis, end)
                    picked = by_key.get(axis[0].key, axis[0 if end == "low" else -1])
                    return category(picked.value)

                yield self.draw(suggest)

    @property
    def identity(self) -> dict[str, Any]:
        """What would be drawn: everything but the machine's side."""
        templates = {
            key: {k: v for k, v in config.items() if k != "env"}
            for key, config in self.templates.items()
        }
        drawn_from = {k: v for k, v in self.to_json().items() if k != "base"}  # templates hold it
        return drawn_from | {"templates": templates}

    def to_json(self) -> dict[str, Any]:
        """Plain data, for ``plan.json``."""
        axes = {
            k: asdict(a) if isinstance(a, Interval) else [asdict(s) for s in a]
            for k, a in self.axes.items()
        }
        rules = {
            "zipped": self.rules.zipped,
            "when": self.rules.when,
            "forbidden": [asdict(f) for f in self.rules.forbidden],
        }
        return {"base": self.base, "axes": axes, "rules": rules, "templates": self.templates}

    @staticmethod
    def from_json(plain: Mapping[str, Any]) -> "Search":
        """What ``to_json`` wrote."""
        rules = plain["rules"]
        when = rules["when"] and {
            k: {a: tuple(v) for a, v in c.items()} for k, c in rules["when"].items()
        }
        forbidden = tuple(
            Forbidden({k: tuple(v) for k, v in f["match"].items()}, f["reason"])
            for f in rules["forbidden"]
        )
        axes: dict[str, Axis] = {
            k: Interval(**a) if isinstance(a, dict) else tuple(Setting(**s) for s in a)
            for k, a in plain["axes"].items()
        }
        return Search(tuple(plain["base"]), axes, Rules((), when, forbidden), plain["templates"])


def make_search(definition: "Definition", composer: Composer) -> Search:
    """Compose every choice of groups that a search may draw.

    Raises:
        SweepError: no axis, axes that go together, several seeds, too many choices.
    """
    axes, rules = definition.axes, definition.rules
    if not axes:
        raise SweepError(
            "hydra/sweeper/sampler: nothing to search over; give an axis several values or an "
            "interval, such as 'optim.peak_lr=tag(log, interval(1e-4, 1e-2))'."
        )
    if rules.zipped:
        raise SweepError(
            f"zip={list(rules.zipped[0])}: goes with a grid, and this is a search; drop zip, or "
            "the sampler."
        )
    if seeds := [key for key in axes if key in SEEDS]:
        raise SweepError(
            f"{seeds[0]}: a search would take the luckiest seed for the best setting; give one, "
            "and confirm what the search finds on fresh seeds (in a sweep file: search.confirm)."
        )
    for axis in axes.values():
        for setting in [] if isinstance(axis, Interval) else axis:
            if "." in setting.key and not is_field(setting):
                raise SweepError(
                    f"{setting.override}: a search draws plain values of fields that exist; move "
                    "it to a group's file, or run a grid."
                )
    count = math.prod(len(a) for a in axes.values() if _is_group(a))
    if count > MAX_TEMPLATES:
        raise SweepError(
            f"axes: {count} choices of groups, and a search composes each before it starts; at "
            f"most {MAX_TEMPLATES}: search over fewer groups at once."
        )
    search = Search(definition.base, axes, rules, {})
    for settings in search.examples():
        key = _template_key(settings)
        if key not in search.templates:
            chosen = [s for s in settings if not is_field(s)]
            config, free = composer.template([*definition.base, *(s.override for s in chosen)])
            fields = [s for s in settings if is_field(s)]
            if not free or set_fields(config, fields) is None:
                raise SweepError(
                    f"[{' '.join(s.override for s in settings)}]: a search sets plain values of "
                    "fields that exist, in configs without ${...}; use `when:` for a field that "
                    "only some values of a group have, or run a grid."
                )
            search.templates[key] = config
    return search


def _of(result: Mapping[str, Any], name: str, otherwise: float) -> float:
    known = result["facts"] | result["metrics"]
    value = known.get(name)
    if value is None and result["status"] == "diverged":
        return otherwise
    if not isinstance(value, (int, float)):
        numbers = [k for k, v in known.items() if isinstance(v, (int, float))]
        raise SweepError(
            f"hydra.sweeper.objectives or constraints: {name} is no number of a result."
            f"{did_you_mean(name, numbers)} Known: {', '.join(sorted(numbers))}."
        )
    return float(value)


def category(value: Any) -> Any:
    """A value as Optuna stores categories: lists and the like by their text."""
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def _is_group(axis: Axis) -> TypeGuard[tuple[Setting, ...]]:
    return isinstance(axis, tuple) and not is_field(axis[0])


def _template_key(settings: Sequence[Setting]) -> str:
    return json.dumps([s.override for s in settings if not is_field(s)])
