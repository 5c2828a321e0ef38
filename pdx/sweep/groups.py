"""Which runs of a sweep may share a process: ``hydra.sweeper.students_per_worker``."""

from collections import Counter
from collections.abc import Collection, Iterable
from typing import Any

from pdx.env import Env
from pdx.errors import SweepError
from pdx.files import digest
from pdx.sweep.plan import Point
from pdx.sweep.search import Method

KEY = "hydra.sweeper.students_per_worker"


def check_groups(students_per_worker: Any, env: Env, method: Method) -> None:
    """Refuse what cannot be had of several runs in a process.

    Raises:
        SweepError: no whole number of at least 1, or settings of which it cannot be more than 1.
    """
    said = f"{KEY}={students_per_worker}"
    if not isinstance(students_per_worker, int) or students_per_worker < 1:
        raise SweepError(
            f"{said}: must be a whole number of at least 1; 1 gives each run a process of its own."
        )
    if students_per_worker == 1:
        return
    if env.gpus_per_run > 1:
        raise SweepError(
            f"{said}: shares one device, and env.gpus_per_run={env.gpus_per_run} spreads a run "
            "over several; use 1 of either."
        )
    if env.isolation != "forkserver":
        raise SweepError(
            f"{said}: a group has a process of its own, so that its death is not the worker's, and "
            f"env.isolation={env.isolation} gives it none; use env.isolation=forkserver, or 1."
        )
    named = [*(o.lstrip("-") for o in method.objectives), *method.constraints]
    if own := [name for name in named if name.startswith("perf/")]:
        raise SweepError(
            f"{said}: {', '.join(own)} of runs that share a process is not their own; leave it out "
            "of hydra.sweeper.objectives and hydra.sweeper.constraints, or use 1."
        )


def alike(points: Iterable[Point]) -> dict[str, set[str]]:
    """The runs that each run may share a process with, itself included; none of the others.

    They read the same batches (equal data, text and ``train``, seed included), and the same teacher
    live or from the same store, or none. A run is by itself whose body is compiled, for the
    compiler keeps few shapes of one function, or that a sampler draws, for it learns from each.
    """
    found: dict[str, set[str]] = {}
    group_of: dict[str, set[str]] = {}
    for point in points:
        if point.role == "search" or point.config["train"]["compile"]:
            continue
        config, facts = point.config, point.facts
        read = [config[k] for k in ("data", "text", "train", "teacher", "weak_teacher", "store")]
        key = digest([read, facts["teacher_id"], bool(facts["store_bytes"])])
        group = found.setdefault(key, set())
        group.add(point.run_id)
        group_of[point.run_id] = group
    return group_of


def described(
    points: Iterable[Point], students_per_worker: int, unfinished: Collection[str]
) -> str:
    """How the runs that are to do are placed, in one line."""
    todo = [p for p in points if p.run_id in unfinished]
    groups = {id(group): len(group) for group in alike(todo).values()}
    sizes = Counter({1: len(todo) - sum(groups.values())})
    for size in groups.values():
        whole, rest = divmod(size, students_per_worker)
        sizes[students_per_worker] += whole
        sizes[rest] += rest > 0
    shown = [f"{n} of {size}" for size, n in sorted(sizes.items(), reverse=True) if n and size]
    return (
        f"{KEY}={students_per_worker}: {', '.join(shown) or 'none'} in a process, of equal data, "
        "train.* and teacher"
    )
