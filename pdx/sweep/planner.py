"""Definition -> plan: compose, check and hash every point."""

from collections.abc import Iterator, Sequence
from itertools import product

from hydra.errors import ConfigCompositionException
from tqdm import tqdm

from pdx.config import Run, run_of_resolved
from pdx.env import Env
from pdx.errors import ConfigError, SweepError
from pdx.facts import facts_of
from pdx.files import digest
from pdx.sweep.claims import hold
from pdx.sweep.composer import Compose, Composer
from pdx.sweep.definition import SEED_AXIS, Definition
from pdx.sweep.plan import Plan, Point
from pdx.sweep.search import Method, Search, make_search
from pdx.sweep.settings import Setting
from pdx.sweep.space import Combination, combinations, values_of

GRID = Method({}, {}, None, ["val/loss"], {})
MANY = 100  # points from which planning shows a progress bar


def make_plan(definition: Definition, compose: Compose, method: Method = GRID) -> tuple[Plan, Env]:
    """Compose, check and hash every point.

    Args:
        method: of a search its sampler; without one the axes are a grid.

    Raises:
        SweepError: an axis that changes nothing, a count that is not the expected one.
        ConfigError: any point that cannot be run.
    """
    planner = _Planner(definition, Composer(compose))
    method.check()
    search = planner.search() if method.is_search else None
    points = [] if search else planner.axis_points()
    known = {p.run_id for p in points}
    for point in planner.control_points():
        if point.run_id not in known:  # a control may already stand in the grid
            known.add(point.run_id)
            points.append(point)
    planned = len(points) + (method.num_runs or 0)
    if method.confirm is not None and search is not None:
        method.confirm.check_fresh([*search.templates.values(), *(p.config for p in points)])
        planned += method.confirm.most(points)
    expected = definition.expected_runs
    if expected is not None and planned != expected:
        raise SweepError(
            f"sweep={definition.name} scale={definition.scale}: plans {planned} runs and "
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
        forbidden=planner.forbidden,
        method=method,
        search=search,
        claims=hold(definition.claims, points, planner.undefined, strict=expected is not None),
    )
    assert planner.env is not None
    planner.env.check_outputs()
    return plan, planner.env


class _Planner:
    def __init__(self, definition: Definition, composer: Composer) -> None:
        self.definition, self._composer = definition, composer
        self.env: Env | None = None
        self.forbidden: dict[str, int] = {}
        self.undefined: dict[str, list[str]] = {}

    def axis_points(self) -> list[Point]:
        """The grid; two points of one hash mean that an axis changes nothing."""
        grid = list(combinations(self.definition.grid_axes, self.definition.rules))
        points: dict[str, Point] = {}
        teachers = set()
        for combination in tqdm(grid, desc="plan", unit="run", disable=len(grid) < MANY):
            reason = self.definition.rules.reason_against(values_of(combination))
            if reason is not None:
                self.forbidden[reason] = self.forbidden.get(reason, 0) + 1
                continue
            point, run = self.point("axis", tuple(combination.values()))
            if run.reads_teacher:
                teachers.add(digest(run.teacher.identify(run)))
                _refuse_moving_reference(run, teachers)
            if point.run_id in points:
                _refuse_equal(points[point.run_id], point)
            points[point.run_id] = point
        if not points:
            raise SweepError(f"forbid: leaves none of {len(grid)} combinations; forbid fewer.")
        return list(points.values())

    def search(self) -> Search:
        """What a search draws from: composed now, so that editing conf/ changes no later run."""
        search = make_search(self.definition, self._composer)
        for settings in search.examples():
            self.point("search", settings)  # refuses now what could not run later
        return search

    def control_points(self) -> Iterator[Point]:
        """Each control block, crossed with the axes that it reads and does not set."""
        if not self.definition.controls:
            return
        axes = {k: a for k, a in self.definition.axes.items() if isinstance(a, tuple)}
        grid = [
            combination
            for combination in combinations(axes, self.definition.rules.among(axes))
            if self.definition.rules.reason_against(values_of(combination)) is None
        ]
        for block in self.definition.controls:
            own = list(product(*block.values()))
            crossed = {
                key: values
                for key, values in axes.items()
                if key not in block and self._knows(own[0], values[0])
            }
            read = self._read_of(own[0], crossed)
            beside: dict[tuple[str, ...], Combination] = {}
            for combination in grid:
                kept = {key: combination[key] for key in read if key in combination}
                beside.setdefault(tuple(s.override for s in kept.values()), kept)
            for kept in beside.values():
                for settings in own:
                    yield self.point("control", (*kept.values(), *settings))[0]

    def _knows(self, own: Sequence[Setting], setting: Setting) -> bool:
        """Whether a control has the key at all: with loss=none there are no fields of a loss."""
        try:
            self._composer(self.definition.base, (setting, *own))
        except ConfigCompositionException:
            return False
        return True

    def _read_of(
        self, own: Sequence[Setting], crossed: dict[str, tuple[Setting, ...]]
    ) -> list[str]:
        """The axes that a control reads; one that exists beside others only, if it reads those."""
        read = {s.key for s in own}
        for key in self.definition.rules.order(crossed):
            if read.issuperset(self.definition.rules.condition(key)) and self._reads(
                own, crossed, key
            ):
                read.add(key)
        return [key for key in crossed if key in read]

    def _reads(
        self, own: Sequence[Setting], crossed: dict[str, tuple[Setting, ...]], key: str
    ) -> bool:
        """Whether the first and another value of an axis make different runs of a control."""
        values = [s.override for s in crossed[key]]
        other = next((i for i, value in enumerate(values) if value != values[0]), None)
        if other is None:
            return True
        try:
            return len({self._variant(own, crossed, {key: i}) for i in (0, other)}) > 1
        except ConfigError:  # another value needs those that it is zipped with
            zipped = next((g for g in self.definition.rules.zipped if key in g), (key,))
            ids = {self._variant(own, crossed, dict.fromkeys(zipped, i)) for i in (0, other)}
            return len(ids) > 1

    def _variant(
        self,
        own: Sequence[Setting],
        crossed: dict[str, tuple[Setting, ...]],
        index: dict[str, int],
    ) -> str:
        """The run of a control with the first value of every axis, or the one that is indexed."""
        picked = [axis[index.get(key, 0)] for key, axis in crossed.items()]
        given = {s.key: s.value for s in (*picked, *own)}
        exist = [s for s in picked if self.definition.rules.exists(s.key, given)]
        return self.point("control", [*exist, *own])[1].run_id

    def point(self, role: str, settings: Sequence[Setting]) -> tuple[Point, Run]:
        """Compose, build, check, hash and price one point."""
        config = self._composer(self.definition.base, settings)
        try:
            run, self.env = run_of_resolved(config)
        except ConfigError as err:
            label = " ".join(s.override for s in settings)
            raise ConfigError(f"{err} (at: {label or 'the only point'})") from err
        params = {s.key: s.value for s in settings}
        overrides = [*self.definition.base, *(s.override for s in settings)]
        point = Point(run.run_id, role, params, overrides, config, facts_of(run, self.env))
        if undefined := _undefined(run):
            self.undefined[run.run_id] = undefined
        return point, run


def _undefined(run: Run) -> list[str]:
    """What a run reads whose definition by its source is not to be had."""
    read = {name: getattr(run, name) for name in run.identity if hasattr(run, name)}
    return [
        f"{name} {type(component).__name__}"
        for name, component in read.items()
        if getattr(component, "definition_unresolved", False)
    ]


def _refuse_equal(one: Point, other: Point) -> None:
    differ = [k for k in one.params if one.params[k] != other.params.get(k)]
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
