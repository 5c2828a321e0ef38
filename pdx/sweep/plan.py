"""A plan: every point of a sweep composed, checked, hashed and priced before any of it runs."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from pdx.env import Env
from pdx.errors import SweepError
from pdx.files import digest, read_json, write_json

PLAN = "plan.json"
PLAN_VERSION = 2
CONFIRM = "confirm"  # the role of a run that confirms a search


@dataclass(frozen=True)
class Point:
    """One run of a sweep.

    Attributes:
        role: ``axis``, ``control``, ``search`` for one that a sampler drew, or ``confirm`` for one
            of its best, or their controls, on a fresh seed.
        params: what it sets, by axis.
        config: resolved: a worker composes nothing, so editing conf/ changes no queued run.
        facts: what it will cost (``pdx.facts``).
    """

    run_id: str
    role: str
    params: dict[str, Any]
    overrides: list[str]
    config: dict[str, Any]
    facts: dict[str, Any]

    @property
    def label(self) -> str:
        """Params in one line."""
        return " ".join(f"{key}={value}" for key, value in self.params.items())


@dataclass(frozen=True)
class Plan:
    """A sweep whose every point is known. ``digest`` names it: what would run, nothing else.

    Attributes:
        points: known before the sweep starts; of a search, its controls.
        forbidden: how many combinations were left out, by reason.
        method: how runs are chosen and compared (``pdx.sweep.search.Method``).
        search: what a sampler draws from (``pdx.sweep.search.Search``), or None for a grid.
        claims: what was published, with the runs that each is held against (``pdx.sweep.claims``).
    """

    name: str
    scale: str
    question: str
    command: str
    axes: list[str]
    seed_axis: str
    points: list[Point]
    forbidden: dict[str, int] = field(default_factory=dict)
    method: Any = None
    search: Any = None
    claims: list[dict[str, Any]] = field(default_factory=list)

    @cached_property  # asked for at every run, and 10,000 points take milliseconds to sort
    def digest(self) -> str:
        """Of what would run."""
        runs: Any = sorted(p.run_id for p in self.points)
        if self.search is not None:
            method = asdict(self.method)
            for name in ("num_runs", "confirm"):  # asked for more, it is the same search
                method.pop(name)
            runs = [runs, method, self.search.identity]
        return digest(runs, 8)

    @property
    def sweep_id(self) -> str:
        return "-".join([self.name, self.scale, self.digest])

    @property
    def num_runs(self) -> int:
        """Runs in all, those that are still to be drawn included, and the most that confirm."""
        return len(self.points) + ((self.method and self.method.num_runs) or 0) + self.num_confirm

    @property
    def num_confirm(self) -> int:
        """Runs at most that confirm what a search finds."""
        confirm = self.method.confirm if self.method else None
        return confirm.most(self.points) if confirm else 0

    def directory(self, env: Env) -> Path:
        """Where the sweep keeps its plan, its study and its report."""
        return env.paths.sweeps / self.sweep_id

    def save(self, directory: Path) -> None:
        """Write ``plan.json``.

        Raises:
            SweepError: the directory holds a plan of another sweep.
        """
        path = directory / PLAN
        if path.exists() and read_json(path).get("digest") != self.digest:
            raise SweepError(
                f"{path}: is the plan of another sweep ({read_json(path).get('digest')}, not "
                f"{self.digest}); move {directory} away, or set env.outputs."
            )
        plain = {f.name: getattr(self, f.name) for f in fields(self)}
        plain |= {
            "version": PLAN_VERSION,
            "digest": self.digest,
            "points": [vars(p) for p in self.points],
            "method": self.method and asdict(self.method),
            "search": self.search and self.search.to_json(),
        }
        write_json(path, plain)


def has_plan(directory: Path) -> bool:
    """Whether a sweep was begun there: its plan is the first that is written."""
    return (directory / PLAN).exists()


def load_plan(directory: Path) -> Plan:
    """Read ``plan.json``.

    Raises:
        SweepError: written by another version of pdx.
    """
    from pdx.sweep.search import Method, Search

    path = directory / PLAN
    stored = read_json(path)
    if stored.pop("version", None) != PLAN_VERSION:
        raise SweepError(
            f"{path}: was written by another version of pdx; finish it with that one, or move "
            f"{directory} away: finished runs are kept in runs/ and are not run again."
        )
    stored.pop("digest")
    points = [Point(**p) for p in stored.pop("points")]
    method, search = stored.pop("method"), stored.pop("search")
    return Plan(
        **stored,
        points=points,
        method=method and Method.from_json(method),
        search=search and Search.from_json(search),
    )


def drawn_points(directory: Path) -> Iterator[Point]:
    """The runs that a search has drawn so far, and those that confirm it."""
    for path in sorted((directory / "points").glob("*.json")):
        yield Point(**read_json(path))


def save_point(directory: Path, point: Point) -> None:
    """Keep a run that a search has drawn, or that confirms it."""
    path = directory / "points" / f"{point.run_id}.json"
    if not path.exists():
        write_json(path, vars(point))


def pending(plan: Plan, env: Env) -> list[Point]:
    """Points of a plan whose run is not finished."""
    return unfinished(plan.points, env)


def examples(plan: Plan) -> list[Point]:
    """Of a search a run of each choice of groups that it may draw; none of a grid."""
    search = plan.search
    return [search.point(settings) for settings in search.examples()] if search else []


def unfinished(points: Iterable[Point], env: Env) -> list[Point]:
    """Those of some points whose run is not finished."""
    return [p for p in points if not env.paths.result(p.run_id).exists()]
