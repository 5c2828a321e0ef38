"""A plan in words: what a user reads before paying for it, and how far it has got."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pdx.env import Env
from pdx.errors import SweepError
from pdx.files import digest
from pdx.memory import bytes_to_train, room
from pdx.paths import default_outputs
from pdx.sweep.groups import described
from pdx.sweep.plan import Plan, Point, has_plan, load_plan, pending


def describe(plan: Plan, env: Env, students_per_worker: int = 1) -> str:
    """The plan as a user reads it before paying for it."""
    todo = {p.run_id for p in pending(plan, env)}
    lines = [
        f"{plan.sweep_id}: {plan.question}",
        "",
        f"{'':1} {'run':12} {'role':7} {'params':>10} {'tokens':>10} {'epochs':>6} "
        f"{'FLOPs':>8} {'teacher':>8}  settings",
    ]
    for point in plan.points:
        facts = point.facts
        teacher = facts["flops_teacher_inference_exact"]
        lines.append(
            f"{' ' if point.run_id in todo else '*'} {point.run_id} {point.role:7} "
            f"{_count(facts['num_params_non_embedding']):>10} {_count(facts['num_tokens']):>10} "
            f"{_number(facts['num_epochs']):>6} {_power(facts['flops_train_exact']):>8} "
            f"{_power(teacher):>8}  {point.label}"
        )
    lines += ["", *_totals(plan, env, len(todo))]
    if students_per_worker > 1:
        lines.append(described(plan.points, students_per_worker, todo))
    return "\n".join(lines)


def _checkpoint_bytes(facts: Sequence[dict[str, Any]]) -> float:
    """Weights and AdamW's two moments of the largest student, in float32."""
    return 12.0 * max((f["num_params_total"] or 0 for f in facts), default=0)


@dataclass(frozen=True)
class _MadeOnce:
    """What the runs of a plan share, each made once: by id, what it costs to make.

    Attributes:
        training: FLOPs of each teacher that is trained here.
        capture, store_bytes: FLOPs and bytes of each store, as far as any run reads it.
    """

    training: dict[str, float]
    capture: dict[str, float]
    store_bytes: dict[str, float]

    @staticmethod
    def of(points: Sequence[Point]) -> "_MadeOnce":
        shared = _MadeOnce({}, {}, {})
        for point in points:
            facts, config = point.facts, point.config
            if facts["teacher_id"]:
                shared.training[facts["teacher_id"]] = facts["flops_teacher_training_exact"] or 0.0
            if facts["store_bytes"]:
                key = digest([facts["teacher_id"], config["data"], config["store"]])
                forward = facts["flops_teacher_inference_exact"] or 0.0
                shared.capture[key] = max(shared.capture.get(key, 0.0), forward)
                size = max(shared.store_bytes.get(key, 0.0), facts["store_bytes"])
                shared.store_bytes[key] = size
        return shared


def _totals(plan: Plan, env: Env, num_todo: int) -> Iterator[str]:
    facts = [p.facts for p in plan.points]
    shared = _MadeOnce.of(plan.points)
    yield f"{len(plan.points)} runs, {len(plan.points) - num_todo} done (*), {num_todo} to do"
    yield (
        f"tokens: {_count(sum(f['num_tokens'] for f in facts))} over all runs; student FLOPs "
        f"{_power(sum(f['flops_train_exact'] or 0 for f in facts))} (matrix products, 3x forward), "
        f"{_power(sum(f['flops_train_6nd'] or 0 for f in facts))} as 6ND without embeddings"
    )
    made = {name for name in shared.training if env.paths.result(name).exists()}
    yield (
        f"shared, made once: {len(shared.training)} teachers ({len(made)} made; training "
        f"{_power(sum(shared.training.values()))} FLOPs) and {len(shared.capture)} stores "
        f"(capture {_power(sum(shared.capture.values()))} FLOPs); the `teacher` column is the "
        "forward passes that one run reads"
    )
    yield (
        f"disk: logits stores about {sum(shared.store_bytes.values()) / 2**30:.2f} GiB; "
        f"checkpoints of runs under way {_checkpoint_bytes(facts) / 2**30:.2f} GiB each at most"
    )
    largest = max((f["num_params_total"] or 0 for f in facts), default=0)
    most, here = bytes_to_train(largest, env), room(env)
    fits = "" if most <= here.num_bytes else ": too little, and the runs would be refused here"
    yield (
        f"memory: the largest student takes at least {most / 2**30:.2f} GiB to train; {here.where} "
        f"has {here.num_bytes / 2**30:.1f} GiB{fits}"
    )
    hours = hours_of(plan, env)
    if hours is not None:
        left = sum(v for k, v in shared.training.items() if k not in made)
        before = _hours(left + sum(shared.capture.values()), env)
        yield (
            f"slot hours at env.tflops={env.tflops:g}: {sum(hours.values()):.4g} for the runs that "
            f"are to do; before them at most {before:.4g} for teachers and stores"
        )
    for reason, count in plan.forbidden.items():
        yield f"forbidden: {count} combinations ({reason})"
    if plan.search is not None:
        sampler = plan.method.sampler["_target_"].rpartition(".")[2]
        yield f"search: {plan.method.num_runs} runs drawn by {sampler} over {', '.join(plan.axes)}"
    if plan.num_confirm:
        confirm = plan.method.confirm
        yield (
            f"confirm: then up to {plan.num_confirm} runs, the best {confirm.num_winners} settings "
            f"on val and their controls on seeds {', '.join(map(str, confirm.seeds))}"
        )
    if any(f["num_epochs"] is None for f in facts):
        yield "epochs: `-` is known once the data is prepared"


def _count(value: float | None) -> str:
    if value is None:
        return "-"
    for scale, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= scale:
            return f"{value / scale:.4g}{suffix}"
    return f"{value:.4g}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _power(value: float | None) -> str:
    return "-" if value is None else f"{value:.1e}" if value else "0"


def status_of(plan: Plan, env: Env) -> str:
    """How far a sweep is, what runs, and why what failed failed."""
    from pdx.sweep.progress import snapshot
    from pdx.sweep.studies import Studies

    directory = plan.directory(env)
    if not has_plan(directory):
        todo = len(pending(plan, env)) + plan.num_runs - len(plan.points)
        return f"{plan.sweep_id}: not started; {todo} of {plan.num_runs} to do"
    now = snapshot(Studies(directory, plan, env.storage), env)
    lines = [f"{plan.sweep_id}: " + ", ".join(f"{n} {k}" for k, n in now.standing.counts.items())]
    if now.best:
        lines.append(f"  best {now.best[0]:.4g} [{now.best[1]}]")
    for run in now.running:
        loss = "" if run.loss is None else f", train/loss {run.loss:.3f}"
        lines.append(f"  {run.worker}: {run.share:.0%} of [{run.label}]{loss}")
    lines += [f"  failed {run_id}: {why}" for run_id, why in now.standing.failures.items()]
    return "\n".join(lines)


def where_to_compare(env: Env, link: str) -> str:
    """How to see a path of MLflow's pages: on the tracking server, or once `pdx ui` serves it."""
    if env.mlflow_server is not None:
        return f"compare in MLflow: open\n{env.mlflow_server}{link}"
    given = {"env.outputs": env.outputs != default_outputs()}
    given["env.tracking_uri"] = env.tracking_uri is not None
    named = " and ".join(key for key, is_given in given.items() if is_given)
    same = f" with the same {named}" if named else ""
    return f"compare in MLflow: run `pdx ui`{same}, then open\nhttp://127.0.0.1:5000{link}"


def status_of_all(env: Env) -> str:
    """How far each sweep of an output directory is, the latest last."""
    found = []
    for directory in sorted(env.paths.sweeps.glob("*"), key=lambda d: d.stat().st_mtime):
        if has_plan(directory):
            try:
                plan = load_plan(directory)
                found.append(f"{status_of(plan, env)}\n  {plan.command}")
            except SweepError as err:  # of another version: said, and the next one shown
                found.append(str(err))
    return "\n".join(found) or (
        f"env.outputs={env.outputs}: holds no sweep; start one, such as pdx train -m sweep=demo, "
        "or say where it is: pdx status env.outputs=DIR"
    )


def hours_of(plan: Plan, env: Env) -> dict[str, float] | None:
    """Slot hours of each run that is to do, at the stated throughput; None if none is stated."""
    if env.tflops is None:
        return None
    hours = {}
    for point in pending(plan, env):
        facts = point.facts
        live = 0.0 if facts["store_bytes"] else facts["flops_teacher_inference_exact"] or 0.0
        flops = (facts["flops_train_exact"] or 0.0) + live
        hours[point.run_id] = _hours(flops, env)
    return hours


def _hours(flops: float, env: Env) -> float:
    assert env.tflops is not None
    return flops / (env.tflops * 1e12) / 3600
