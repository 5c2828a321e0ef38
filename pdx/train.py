"""The loop: one, straight, for every mode."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from pdx.build import check
from pdx.checkpoint import Keeper
from pdx.models import layer_states
from pdx.ranks import Ranks
from pdx.reduce import backward
from pdx.signal import Lesson
from pdx.spread import Replica, clip_gradients
from pdx.tally import Tally, raise_if_diverged, training_metrics

if TYPE_CHECKING:
    from pdx.config import Run
    from pdx.feed import Feed
    from pdx.hiddens.matched import Matcher
    from pdx.store.recorder import Recorder

SPLITS = ("student", "teacher", "student+teacher")
NUM_LOGS = 50  # points of the training curve

Report = Callable[[int, dict[str, float]], bool]


@dataclass(frozen=True, kw_only=True)
class Train:
    """How long, in what batches, on which part of the data, and from which seed.

    Attributes:
        num_tokens: whole steps of it are trained.
        batch_size: sequences of one optimizer step; ``micro_batch_size`` of them at once.
        max_epochs: how often the data may be read; repeating is asked for, never silent.
        split: ``student``, ``teacher`` or ``student+teacher``: which part of the training tokens.
        num_evals: evaluations on held-out text along the way, the last at the end.
        seed: of the initial weights and of the order of the data.
        precision: ``float32``, or ``bfloat16`` for products in that, as a GPU wants them. The
            device never chooses: a run is the same run wherever it runs.
        compile: the model's body through torch.compile.
    """

    num_tokens: int
    batch_size: int
    micro_batch_size: int
    max_epochs: float
    split: str
    num_evals: int
    seed: int
    precision: str
    compile: bool

    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check(self.batch_size >= 1, "train.batch_size", self.batch_size, "must be at least 1")
        check(
            self.micro_batch_size >= 1 and self.batch_size % self.micro_batch_size == 0,
            "train.micro_batch_size",
            self.micro_batch_size,
            f"must divide train.batch_size={self.batch_size}",
        )
        check(self.max_epochs > 0, "train.max_epochs", self.max_epochs, "must be > 0")
        check(
            self.split in SPLITS, "train.split", self.split, f"must be one of {', '.join(SPLITS)}"
        )
        check(self.num_evals >= 1, "train.num_evals", self.num_evals, "must be at least 1")
        check(
            self.precision in ("float32", "bfloat16"),
            "train.precision",
            self.precision,
            "must be float32 or bfloat16",
        )


def train(
    run: "Run",
    student: Any,
    feed: "Feed",
    evaluate: Callable[[], dict[str, float]],
    report: Report,
    keeper: Keeper,
    state: dict[str, Any] | None = None,
    spread: Replica | None = None,
    record: "Recorder | None" = None,
) -> dict[str, float]:
    """Train ``student`` in place; return the metrics of its last report.

    Args:
        feed: step -> this rank's micro-batches with their signal; a pure function of the step.
        evaluate: held-out metrics of the student as it stands.
        report: gets step and metrics, and says whether to stop early, on every rank the same.
        keeper: keeps checkpoints: now and then, and where the run stops early.
        state: a checkpoint to go on from.
        spread: the student over the ranks of the run; null where this process is alone.
        record: keeps what the student says, for students of its own.

    Raises:
        Diverged: a gradient norm was not finite.
        Paused: the keeper was told to end; the run is saved.
    """
    spread = spread or Replica(student, Ranks.alone(feed.device))
    ranks, optimizer = spread.ranks, run.optim.init(student)
    matcher = run.hidden.init(student, feed, run.train.seed)
    others = [] if matcher is None else list(matcher.parameters())
    if others:
        shared = {k: optimizer.param_groups[0][k] for k in ("peak_lr", "weight_decay")}
        optimizer.add_param_group({"params": others} | shared)
    tally, seconds, first = Tally(ranks), 0.0, 0
    if state is not None:
        spread.load(optimizer, state)
        if matcher is not None:
            matcher.load_state_dict(state["matcher"])
        tally, seconds, first = Tally.of(state["sums"], ranks), state["seconds"], state["step"]
    num_steps, num_evals = run.num_steps, run.train.num_evals
    eval_steps = {max(1, round(num_steps * (i + 1) / num_evals)) for i in range(num_evals)}
    log_every = max(1, num_steps // NUM_LOGS)
    forward = torch.compile(layer_states) if run.train.compile else layer_states
    metrics: dict[str, float] = {}
    mark = time.monotonic()

    for step in range(first, num_steps + 1):  # one extra pass so that the last step is evaluated
        # ---- checkpoint, eval, log ---------------------------------------------------
        if step > first and keeper.due():
            passed = seconds + time.monotonic() - mark
            keeper.save(_state(spread, optimizer, matcher, step, tally.over_ranks(), passed))
        # Also where a checkpoint taken up was saved: it stands before its step's own report.
        if step > 0 and (step in eval_steps or step % log_every == 0):
            sums = tally.over_ranks()
            raise_if_diverged(step, sums)
            seconds += time.monotonic() - mark  # training only: what follows is not counted
            metrics = training_metrics(
                sums,
                seconds,
                step * run.batch_tokens,
                run.loss.needs_teacher,
                matcher is not None,
            )
            metrics["train/lr"] = optimizer.param_groups[0]["lr"]
            tally = Tally(ranks, seconds)
            if step in eval_steps:
                metrics |= evaluate()
            stop = report(step, metrics)
            if step == num_steps:
                break
            if stop:  # what goes on from here one day reports this step again
                keeper.save(_state(spread, optimizer, matcher, step, sums, seconds))
                break
            mark = time.monotonic()

        # ---- one optimizer step ------------------------------------------------------
        fraction = (step + 0.5) / num_steps
        kd_weight = run.kd_weight(fraction)
        micro_batches = feed(step)
        num_valid = ranks.total(sum(b.num_valid for b in micro_batches))
        head = spread.head()
        for number, batch in enumerate(micro_batches):
            sequence = step * run.train.batch_size + number * run.train.micro_batch_size
            with feed.autocast():
                asked = kd_weight > 0 or matcher is not None
                lesson = feed.lesson(batch, fraction) if asked else Lesson(None, None)
                hidden_BLD, states = forward(
                    student, batch.tokens_BL, batch.document_BL, run.hidden.student_layers
                )
                match = matcher and matcher(states, lesson.states, batch.mask_BL)
                sums = backward(
                    hidden_BLD,
                    head,
                    batch.targets_BL,
                    batch.mask_BL,
                    lesson.signal if kd_weight > 0 else None,
                    run.loss,
                    kd_weight,
                    num_valid,
                    taught_BL=lesson.taught_BL,
                    hear=None if record is None else record.hear(sequence, batch),
                    beside=match,
                    beside_weight=run.hidden.weight,
                )
            tally.add(sums, match)
        spread.add_gradients()
        ranks.add(*(p.grad for p in others if p.grad is not None))
        grad_norm = clip_gradients([*student.parameters(), *others], run.optim.clip_norm)
        tally.add_step(num_valid, grad_norm)
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * run.schedule(fraction)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return metrics


def _state(
    spread: Replica,
    optimizer: torch.optim.Optimizer,
    matcher: "Matcher | None",
    step: int,
    sums: dict[str, Any],
    seconds: float,
) -> dict[str, Any]:
    more = {} if matcher is None else {"matcher": matcher.state_dict()}
    return spread.state(optimizer) | more | {"step": step, "sums": sums, "seconds": seconds}
