"""Definition -> plan: compose, check and hash every point."""

from collections.abc import Callable, Iterator, Sequence
from itertools import product

from hydra.errors import ConfigCompositionException
from omegaconf import DictConfig
from tqdm import tqdm

from pdx.config import Run, resolved, run_of
from pdx.env import Env
from pdx.errors import ConfigError, SweepError
from pdx.facts import facts_of
from pdx.files import digest
from pdx.sweep.definition import SEED_AXIS, Definition, Setting
from pdx.sweep.plan import Plan, Point

Compose = Callable[[list[str]], DictConfig]
MANY = 20  # points from which composing shows a progress bar


def make_plan(definition: Definition, compose: Compose) -> tuple[Plan, Env]:
    """Compose, check and hash every point.

    Raises:
        SweepError: an axis that changes nothing, a count that is not the expected one.
        ConfigError: any point that cannot be run.
    """
    planner = _Planner(definition, compose)
    points = planner.axis_points()
    known = {p.run_id for p in points}
    for point in planner.control_points():
        if point.run_id not in known:  # a control may already stand in the grid
            known.add(point.run_id)
            points.append(point)
    expected = definition.expected_runs
    if expected is not None and len(points) != expected:
        raise SweepError(
            f"sweep={definition.name} scale={definition.scale}: plans {len(points)} runs and "
            f"expected_runs={expected}; correct the axes or expected_runs."
        )
    plan = Plan(
        name=definition.name,
        scale=definition.scale,
        question=definition.question,
        command=definition.command,
        axes=list(definition.axes),
        seed_axis=SEED_AXIS,
        points=points,
    )
    assert planner.env is not None
    return plan, planner.env


class _Planner:
    def __init__(self, definition: Definition, compose: Compose) -> None:
        self.definition, self._compose = definition, compose
        self.env: Env | None = None

    def axis_points(self) -> list[Point]:
        """The grid; two points of one hash mean that an axis changes nothing."""
        axes = list(self.definition.axes.values())
        grid = list(product(*axes))
        points: dict[str, Point] = {}
        teachers = set()
        for settings in tqdm(grid, desc="plan", unit="run", disable=len(grid) < MANY):
            point, run = self._point("axis", settings)
            if run.loss.needs_teacher:
                teachers.add(digest(run.teacher.identify(run)))
                _refuse_moving_reference(run, teachers)
            if point.run_id in points:
                _refuse_equal(points[point.run_id], point)
            points[point.run_id] = point
        return list(points.values())

    def control_points(self) -> Iterator[Point]:
        """Each control block, crossed with the axes that it reads and does not set."""
        for block in self.definition.controls:
            own = list(product(*block.values()))
            crossed = {
                key: values
                for key, values in self.definition.axes.items()
                if key not in block and self._knows(own[0], values[0])
            }
            read = [k for k in crossed if self._reads(own[0], crossed, k)]
            for settings in product(*(crossed[k] for k in read), *block.values()):
                yield self._point("control", settings)[0]

    def _knows(self, own: Sequence[Setting], setting: Setting) -> bool:
        """Whether a control has the key at all: with loss=none there are no fields of a loss."""
        overrides = [*self.definition.base, setting.override, *(s.override for s in own)]
        try:
            self._compose(overrides)
        except ConfigCompositionException:
            return False
        return True

    def _reads(
        self, own: Sequence[Setting], crossed: dict[str, tuple[Setting, ...]], key: str
    ) -> bool:
        """Whether the first and another value of an axis make different runs of a control."""
        others = [values[0] for name, values in crossed.items() if name != key]
        ids = {self._point("control", [*others, s, *own])[1].run_id for s in crossed[key][:2]}
        return len(ids) > 1 or len(crossed[key]) == 1

    def _point(self, role: str, settings: Sequence[Setting]) -> tuple[Point, Run]:
        overrides = [*self.definition.base, *(s.override for s in settings)]
        cfg = self._compose(overrides)
        try:
            run, self.env = run_of(cfg)
        except ConfigError as err:
            label = " ".join(s.override for s in settings)
            raise ConfigError(f"{err} (at: {label or 'the only point'})") from err
        params = {s.key: s.value for s in settings}
        point = Point(run.run_id, role, params, overrides, resolved(cfg), facts_of(run, self.env))
        return point, run


def _refuse_equal(one: Point, other: Point) -> None:
    differ = [k for k in one.params if one.params[k] != other.params[k]]
    if not differ:
        raise SweepError(f"axes {', '.join(one.params)}: name [{one.label}] twice; name it once.")
    raise SweepError(
        f"axes {', '.join(differ)}: change nothing between [{one.label}] and "
        f"[{other.label}], which are the same run {one.run_id}; drop the axis, or move a loss that "
        "does not read it to `control` (on the command line: run it in a grid of its own)."
    )


def _refuse_moving_reference(run: Run, teachers: set[str]) -> None:
    if len(teachers) > 1 and run.eval_teacher.is_same:
        raise SweepError(
            "teacher@eval_teacher=same: the sweep varies the teacher, so KL, agreement and "
            "teacher loss would each be against another; name one for all, such as "
            "teacher@eval_teacher=trained or teacher@eval_teacher=none."
        )
