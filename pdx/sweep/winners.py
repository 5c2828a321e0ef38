"""What a search found, run again: its best settings and their controls, on seeds it never saw."""

from collections.abc import Iterable, Mapping
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from pdx.config import run_of_resolved
from pdx.env import Env
from pdx.facts import facts_of
from pdx.sweep.claims import RATE_AXIS, setting_of
from pdx.sweep.composer import set_fields
from pdx.sweep.confirm import Chosen, decide
from pdx.sweep.plan import CONFIRM, Point, drawn_points, save_point, unfinished
from pdx.sweep.queue import Queue, is_double
from pdx.sweep.settings import Setting
from pdx.sweep.studies import Studies

OVER = (TrialState.COMPLETE, TrialState.PRUNED)


def confirm_search(queue: Queue, env: Env) -> list[Point] | None:
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
    pairs: list[dict[str, Chosen | None]] = []
    rerun: dict[str, tuple[list[Point], Chosen]] = {}
    for winner, control in choose(queue, known):
        pair = {}
        for name, found in (("winner", winner), ("control", control)):
            if found is not None and found[0].run_id not in rerun:
                rerun[found[0].run_id] = _again(*found, plan.seed_axis, confirm.seeds)
            again, chosen = rerun[found[0].run_id] if found else ([], None)
            points |= {p.run_id: p for p in again}
            pair[name] = chosen
        pairs.append(pair)
    for point in points.values():
        save_point(queue.directory, point)
    decide(queue.directory, plan, list(points), pairs)
    confirming = list(points.values())
    queue.confirm(confirming, {p.run_id for p in unfinished(confirming, env)})
    return confirming


def search_is_over(studies: Studies) -> bool:
    """Whether all draws that were asked for, and all controls, have ended and none has failed."""
    assert studies.drawn is not None
    trials = studies.drawn.get_trials(deepcopy=False)
    ended = [t for t in trials if t.state in OVER and not is_double(t)]
    done = {t.user_attrs["run_id"] for t in studies.trials() if t.state in OVER}
    controls = all(p.run_id in done for p in studies.plan.points)
    return len(ended) >= studies.plan.method.num_runs and controls


Candidate = tuple[Point, list[str], list[float]]


def choose(
    studies: Studies, known: Mapping[str, Point]
) -> list[tuple[Candidate, Candidate | None]]:
    """The best settings of a search that is over, each with its control.

    A control stands at the learning rate of its best mean objective. It is the one that differs
    from the winner in the fewest of the axes that it sets, and of several such the best.
    """
    assert studies.drawn is not None
    method, search = studies.plan.method, studies.plan.search
    sign = -1.0 if method.directions[0] == "maximize" else 1.0
    scores = _scores(studies.drawn.get_trials(deepcopy=False), sign)
    settings: dict[str, str] = {}  # of each choice of listed values the best run
    for run_id in sorted(scores, key=lambda run_id: (scores[run_id], run_id)):
        listed = {
            k: v for k, v in known[run_id].params.items() if isinstance(search.axes[k], tuple)
        }
        settings.setdefault(str(listed), run_id)
    controls = _controls(studies, sign)
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


def _controls(studies: Studies, sign: float) -> list[tuple[float, Candidate]]:
    """Each control setting at its best learning rate, with its mean objective there."""
    scores = _scores(studies.planned.get_trials(deepcopy=False), sign)
    by_setting: dict[str, dict[Any, list[Point]]] = {}
    for point in studies.plan.points:
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
    return Point(run.run_id, CONFIRM, params, [*kept, override], config, facts_of(run, env))
