"""What is asked of a search's confirmation, and which runs it was decided to be."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pdx.errors import SweepError
from pdx.files import read_json, write_json
from pdx.sweep.claims import setting_of
from pdx.sweep.plan import Plan, Point

DECIDED = "confirm.json"


@dataclass(frozen=True)
class Confirm:
    """How the winners of a search are confirmed.

    Attributes:
        num_winners: how many settings at most; runs that differ in numbers of intervals alone are
            one, for a search crowds around its best.
        seeds: of the student, on which each of them and its control are run.
    """

    num_winners: int
    seeds: list[int]

    def check(self, is_search: bool, objectives: list[str]) -> None:
        """Refuse what confirms nothing.

        Raises:
            SweepError: as the message says.
        """
        if not is_search:
            raise SweepError(
                "hydra.sweeper.confirm: runs the best of a search again, and this is a grid; drop "
                "it, or search with hydra/sweeper/sampler=tpe."
            )
        if self.num_winners < 1:
            raise SweepError(
                f"hydra.sweeper.confirm.num_winners={self.num_winners}: must be at least 1."
            )
        if len(set(self.seeds)) != len(self.seeds) or len(self.seeds) < 2:
            raise SweepError(
                f"hydra.sweeper.confirm.seeds={self.seeds}: must be two seeds or more, each once; "
                "eight decide, such as [8,9,10,11,12,13,14,15]."
            )
        if len(objectives) != 1:
            raise SweepError(
                f"hydra.sweeper.confirm: takes the best by one objective, and objectives="
                f"{objectives} have a front; drop confirm, and run a grid of what you choose."
            )

    def check_fresh(self, configs: Iterable[Mapping[str, Any]]) -> None:
        """Refuse seeds that the search or its controls look at.

        Raises:
            SweepError: one of them is not fresh.
        """
        used = {config["train"]["seed"] for config in configs}
        if stale := sorted(used.intersection(self.seeds)):
            raise SweepError(
                f"hydra.sweeper.confirm.seeds={self.seeds}: the search itself uses {stale}, on "
                "which its best is partly luck; name seeds that it does not use."
            )

    def most(self, controls: Iterable[Point]) -> int:
        """Runs at most: each winner, and the controls that they share, on every seed."""
        num_controls = len({str(setting_of(p)) for p in controls})
        return len(self.seeds) * (self.num_winners + min(self.num_winners, num_controls))


@dataclass(frozen=True)
class Chosen:
    """A setting that is run again.

    Attributes:
        params: values by axis, without the seed.
        searched: the runs that it was chosen by.
        runs: those on the fresh seeds.
        rates: the learning rates that it was chosen from; of a winner none, a sampler drew its own.
    """

    params: dict[str, Any]
    searched: list[str]
    runs: list[str]
    rates: list[float]


def confirm_of(given: Mapping[str, Any] | None) -> Confirm | None:
    """From ``hydra.sweeper.confirm``; None where nothing is asked for.

    Raises:
        SweepError: winners without seeds, or seeds without winners.
    """
    if not given or (given["num_winners"] is None and not given["seeds"]):
        return None
    if given["num_winners"] is None or not given["seeds"]:
        raise SweepError(
            f"hydra.sweeper.confirm={dict(given)}: needs both num_winners and seeds, such as "
            "{num_winners: 3, seeds: [8, 9, 10, 11, 12, 13, 14, 15]}."
        )
    return Confirm(given["num_winners"], list(given["seeds"]))


def decide(
    directory: Path, plan: Plan, runs: list[str], pairs: list[dict[str, Chosen | None]]
) -> None:
    """Write down which runs confirm a search: each winner, and its control where it has one."""
    plain = [{side: chosen and asdict(chosen) for side, chosen in p.items()} for p in pairs]
    write_json(directory / DECIDED, {"of": _question(plan), "runs": runs, "pairs": plain})


def decided_runs(directory: Path, plan: Plan) -> list[str] | None:
    """The runs that confirm a search as it is asked for now; None where that is not decided."""
    path = directory / DECIDED
    decided = read_json(path) if path.exists() else {}
    return decided["runs"] if decided.get("of") == _question(plan) else None


def _question(plan: Plan) -> dict[str, Any]:
    """What ``confirm.json`` answers: asked for more draws, or other seeds, it answers no more."""
    return {"num_runs": plan.method.num_runs, **asdict(plan.method.confirm)}
