"""A plan: every point of a sweep composed, checked, hashed and priced before any of it runs."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pdx.env import Env
from pdx.files import digest, read_json, write_json


@dataclass(frozen=True)
class Point:
    """One run of a sweep.

    Attributes:
        role: ``axis`` or ``control``.
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
    """A sweep whose every point is known. ``digest`` names it: what would run, nothing else."""

    name: str
    scale: str
    question: str
    command: str
    axes: list[str]
    seed_axis: str
    points: list[Point]

    @property
    def digest(self) -> str:
        return digest(sorted(p.run_id for p in self.points), 8)

    @property
    def sweep_id(self) -> str:
        return "-".join([self.name, self.scale, self.digest])

    def directory(self, env: Env) -> Path:
        """Where the sweep keeps its plan, its study and its report."""
        return env.paths.sweeps / self.sweep_id

    def save(self, directory: Path) -> None:
        """Write ``plan.json``."""
        write_json(directory / "plan.json", asdict(self) | {"digest": self.digest})


def load_plan(directory: Path) -> Plan:
    """Read ``plan.json``."""
    stored = read_json(directory / "plan.json")
    stored.pop("digest")
    points = [Point(**p) for p in stored.pop("points")]
    return Plan(**stored, points=points)


def pending(plan: Plan, env: Env) -> list[Point]:
    """Points whose run is not finished."""
    return [p for p in plan.points if not env.paths.result(p.run_id).exists()]
