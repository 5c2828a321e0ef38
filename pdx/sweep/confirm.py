"""What a search found, run again: its best settings and their controls, on seeds it never saw."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.trial import FrozenTrial, TrialState

from pdx.config import run_of_resolved
from pdx.env import Env
from pdx.errors import SweepError
from pdx.facts import facts_of
from pdx.files import read_json, write_json
from pdx.sweep.claims import RATE_AXIS, setting_of
from pdx.sweep.composer import set_fields
from pdx.sweep.plan import Plan, Point, drawn_points, save_point
from pdx.sweep.settings import Setting

if TYPE_CHECKING:
    from pdx.sweep.study import Queue

ROLE = "confirm"
DECIDED = "confirm.json"
OVER = (TrialState.COMPLETE, TrialState.PRUNED)


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


def confirm_search(queue: "Queue", env: Env) -> list[Point] | None:
    """Queue the runs that confirm a search; None while it is not over, or where none are asked for.

    The driver asks, alone, when nothing is left to take. What is to be run follows from the study
    and its points, so asking again finds the same, and queues only what is missing.
    """
    plan = queue.plan
    confirm = plan.method.confirm if plan.method else None
    if confirm is None or not search_is_over(queue):
        return None
    known = {p.run_id: p for p in [*plan.points, *drawn_points(queue.directory)]}
    points: dict[str, Point] = {}
    pairs, rerun = [], {}
    for winner, control in choose(queue, known):
        pair: dict[str, Any] = {}
        for name, found in (("winner", winner), ("control", control)):
            if found is not None and found[0].run_id not in rerun:
                rerun[found[0].run_id] = _again(*found, plan.seed_axis, confirm.seeds)
            again, chosen = rerun[found[0].run_id] if found else ([], None)
            points |= {p.run_id: p for p in again}
            pair[name] = chosen and asdict(chosen)
        pairs.append(pair)
    for point in points.values():
        save_point(queue.directory, point)
    runs = list(points)
    decided = {"of": _question(plan), "runs": runs, "pairs": pairs}
    write_json(queue.directory / DECIDED, decided)
    unfinished = {run_id for run_id in runs if not env.paths.result(run_id).exists()}
    queue.confirm(list(points.values()), unfinished)
    return list(points.values())


def decided_runs(directory: Path, plan: Plan) -> list[str] | None:
    """The runs that confirm a search as it is asked for now; None where that is not decided."""
    path = directory / DECIDED
    decided = read_json(path) if path.exists() else {}
    return decided["runs"] if decided.get("of") == _question(plan) else None


def search_is_over(queue: "Queue") -> bool:
    """Whether all draws that were asked for, and all controls, have ended and none has failed."""
    assert queue.drawn is not None
    trials = queue.drawn.get_trials(deepcopy=False)
    ended = [t for t in trials if t.state in OVER and not t.user_attrs.get("double")]
    done = {t.user_attrs["run_id"] for t in queue.trials() if t.state in OVER}
    controls = all(p.run_id in done for p in queue.plan.points)
    return len(ended) >= queue.plan.method.num_runs and controls


Candidate = tuple[Point, list[str], list[float]]


def choose(queue: "Queue", known: Mapping[str, Point]) -> list[tuple[Candidate, Candidate | None]]:
    """The best settings of a search that is over, each with its control.

    A control stands at the learning rate of its best mean objective. It is the one that differs
    from the winner in the fewest of the axes that it sets, and of several such the best.
    """
    assert queue.drawn is not None
    method, search = queue.plan.method, queue.plan.search
    sign = -1.0 if method.directions[0] == "maximize" else 1.0
    scores = _scores(queue.drawn.get_trials(deepcopy=False), sign)
    settings: dict[str, str] = {}  # of each choice of listed values the best run
    for run_id in sorted(scores, key=lambda run_id: (scores[run_id], run_id)):
        listed = {
            k: v for k, v in known[run_id].params.items() if isinstance(search.axes[k], tuple)
        }
        settings.setdefault(str(listed), run_id)
    controls = _controls(queue, sign)
    chosen: list[tuple[Candidate, Candidate | None]] = []
    for run_id in list(settings.values())[: method.confirm.num_winners]:
        winner = known[run_id]
        ranked = sorted(controls, key=lambda c: (_num_apart(c[1][0], winner), c[0]))
        chosen.append(((winner, [run_id], []), ranked[0][1] if ranked else None))
    return chosen


def _scores(trials: Iterable[FrozenTrial], sign: float) -> dict[str, float]:
    """The objective of each complete, feasible run, to be minimized."""
    return {
        t.user_attrs["run_id"]: sign * t.values[0]
        for t in trials
        if t.state == TrialState.COMPLETE
        and t.user_attrs["status"] == "complete"
        and all(v <= 0 for v in t.constraints.values())
    }


def _controls(queue: "Queue", sign: float) -> list[tuple[float, Candidate]]:
    """Each control setting at its best learning rate, with its mean objective there."""
    scores = _scores(queue.planned.get_trials(deepcopy=False), sign)
    by_setting: dict[str, dict[Any, list[Point]]] = {}
    for point in queue.plan.points:
        rates = by_setting.setdefault(str(setting_of(point)), {})
        rates.setdefault(point.params.get(RATE_AXIS), []).append(point)
    found = []
    for rates in by_setting.values():
        means = {
            rate: sum(scores[p.run_id] for p in points) / len(points)
            for rate, points in rates.items()
            if all(p.run_id in scores for p in points)
        }
        if means:
            best = min(means, key=lambda rate: means[rate])
            tried = sorted(float(rate) for rate in rates if rate is not None)
            runs = [p.run_id for p in rates[best]]
            found.append((means[best], (rates[best][0], runs, tried)))
    return found


def _num_apart(control: Point, winner: Point) -> int:
    """How many axes a control sets otherwise than a winner."""
    sets = setting_of(control)
    return sum(winner.params.get(key) != value for key, value in sets.items())


def _again(
    point: Point, searched: list[str], rates: list[float], seed_axis: str, seeds: Iterable[int]
) -> tuple[list[Point], Chosen]:
    points = [_on_seed(point, seed_axis, seed) for seed in seeds]
    params = {k: v for k, v in point.params.items() if k != seed_axis}
    return points, Chosen(params, searched, [p.run_id for p in points], rates)


def _on_seed(point: Point, seed_axis: str, seed: int) -> Point:
    """The same run on another seed."""
    override = f"{seed_axis}={seed}"
    config = set_fields(point.config, [Setting(seed_axis, seed, override)])
    assert config is not None, "refused when the search was planned"
    run, env = run_of_resolved(config)
    kept = [o for o in point.overrides if o.partition("=")[0] != seed_axis]
    params = point.params | {seed_axis: seed}
    return Point(run.run_id, ROLE, params, [*kept, override], config, facts_of(run, env))


def _question(plan: Plan) -> dict[str, Any]:
    """What ``confirm.json`` answers: asked for more draws, or other seeds, it answers no more."""
    return {"num_runs": plan.method.num_runs, **asdict(plan.method.confirm)}
