"""One run, from its parts to its folder: the only place that knows the whole road."""

import math
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import OmegaConf

from pdx import checkpoint
from pdx.config import Run, config_of
from pdx.device import peak_memory, reset_peak_memory
from pdx.env import Env
from pdx.errors import Diverged
from pdx.evaluate import Reference, compare, held_out_loss
from pdx.facts import facts_of
from pdx.feed import Feed
from pdx.files import locked, publish, read_json, write_json, write_text
from pdx.journal import Journal, Observe
from pdx.memory import check_memory
from pdx.models import quiet_transformers
from pdx.provenance import checkout, provenance
from pdx.ranks import Ranks
from pdx.shared import Shared
from pdx.spread import spread
from pdx.together import ALONE, Seat
from pdx.train import train
from pdx.world import num_ranks, world

if TYPE_CHECKING:
    from pdx.store.recorder import Recorder


def execute(
    run: Run,
    env: Env,
    observe: Observe | None = None,
    quiet: bool = False,
    must_end: Callable[[], bool] = lambda: False,
    ready: float | None = None,
    record: "Recorder | None" = None,
    run_dir: Path | None = None,
    seat: Seat = ALONE,
) -> dict[str, Any]:
    """Train and evaluate ``run`` in its folder; a finished one is returned as it stands.

    Args:
        observe: gets each step's metrics beside the folder (MLflow, a pruner), and may stop it.
        must_end: asked at every step; once it holds, the run is saved and ``Paused`` raised.
        ready: since when there has been a process for it, by time.monotonic; from now on if None.
        record: keeps what is said on the way.
        run_dir: another folder than its own, for a run that is only run to be recorded.
        seat: among other runs of this process, with which it takes turns.

    Returns:
        The content of ``result.json``. A run that diverged has one too: with ``status`` diverged,
        a reason, and a finite bad ``val/loss`` of ln V. One that ``observe`` stopped has none: its
        status is pruned, its metrics are the last reported, and its checkpoint stays, so that
        whoever wants it whole goes on from there.

    Raises:
        Paused: ``must_end`` held; nothing was lost.
    """
    ready = time.monotonic() if ready is None else ready
    quiet_transformers()
    run_dir = run_dir or env.paths.runs / run.run_id
    with locked(run_dir / env.paths.run_lock(run.run_id).name):
        path = run_dir / env.paths.result(run.run_id).name
        result = read_json(path) if path.exists() else None
        if result is None:
            write_text(
                run_dir / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(config_of(run, env)))
            )
            num_ranks(run, env)  # its own checks, before anything is made
            run.eval.ensure(env)
            check_memory(run, env)
            shared = Shared.of(run, env)
            shared.ensure(run.num_windows)  # all of it, before the first step
            with world(run, env) as ranks:
                execution = _Execution(
                    shared, ranks, observe, quiet, must_end, ready, record, run_dir, seat
                )
                result = execution.result()
            if result["status"] != "pruned":
                write_json(path, result)
                checkpoint.drop(run_dir)
    return result


def train_teacher(
    training: Run, env: Env, record: "Recorder | None" = None, run_dir: Path | None = None
) -> None:
    """As ``execute``, of a run that others need whole.

    Raises:
        Diverged: it did.
    """
    result = execute(training, env, record=record, run_dir=run_dir)
    if result["status"] != "complete":
        raise Diverged(
            f"teacher: its training diverged ({result['reason']}); its own rate and warmup are "
            "teacher.peak_lr and teacher.warmup_frac."
        )


def take_part(run: Run, env: Env, ranks: Ranks) -> None:
    """Be one of the ranks of a run that rank 0 executes."""
    quiet_transformers()
    _Execution(Shared.of(run, env, ranks.device), ranks, quiet=True).result()


class _Execution:
    """The state of one run while it is under way, in one of its processes: rank 0 writes."""

    def __init__(
        self,
        shared: Shared,
        ranks: Ranks,
        observe: Observe | None = None,
        quiet: bool = False,
        must_end: Callable[[], bool] = lambda: False,
        ready: float | None = None,
        record: "Recorder | None" = None,
        run_dir: Path | None = None,
        seat: Seat = ALONE,
    ) -> None:
        self.seat = seat
        self.ready = time.monotonic() if ready is None else ready
        self.shared = replace(shared, device=ranks.device)
        self.run, self.env, self.ranks, self.quiet = shared.run, shared.env, ranks, quiet
        self.run_dir, self.record = run_dir or self.env.paths.runs / self.run.run_id, record
        self.journal = Journal(self.run, self.run_dir, ranks, observe, quiet)
        self.keeper = checkpoint.Keeper(self.run_dir, self.env.checkpoint_seconds, must_end, ranks)

    def result(self) -> dict[str, Any]:
        """Train, evaluate, save."""
        run, shared, began = self.run, self.shared, time.monotonic()
        self.device, self.val = shared.device, shared.token_set.windows("val")
        if not self.quiet:
            print(
                f"{run.run_id}: {run.num_steps:,} steps, {shared.num_unique_tokens:,} unique "
                f"tokens of the {shared.train_windows.num_tokens:,} in split {run.train.split!r}, "
                f"{shared.num_epochs:.2f} epochs",
                file=sys.stderr,
            )
        self.student = run.student.init(
            shared.token_set.vocab_size, shared.token_set.seq_len, run.train.seed
        )
        self.student.train()
        self.spread = spread(self.student, self.ranks, self.env.sharding)
        reset_peak_memory(self.device)
        status, reason = "complete", None
        try:
            metrics = self._train()
            if self.journal.pruned:
                status, reason = "pruned", "worse than its peers at the same share done"
            else:
                metrics |= self._evaluate()
                weights = self.spread.weights()
                if self.ranks.leads:
                    # of a process that was killed between its model and its result
                    shutil.rmtree(self.run_dir / "model", ignore_errors=True)
                    with publish(self.run_dir / "model") as directory:
                        self.student.save_pretrained(directory, state_dict=weights)
        except Diverged as err:
            # A measurement: a finite bad value, that of knowing nothing (docs/decisions/0004).
            status, reason = "diverged", str(err)
            worst = float(torch.tensor(float(shared.token_set.vocab_size)).log())
            metrics = {"val/loss": worst, "test/loss": worst}
        if self.ranks.leads and (diff := checkout()["diff"]):
            write_text(self.run_dir / "uncommitted.diff", diff)
        if self.seat.num_runs == 1:  # else it is that of all, and no run's own
            # Of the process that took most: what one device must hold.
            metrics["perf/peak_memory_gib"] = self.ranks.most(peak_memory(self.device)) / 2**30
        metrics.pop("tokens", None)
        return {
            "run_id": run.run_id,
            "status": status,
            "reason": reason,
            "seconds": time.monotonic() - began,
            "metrics": metrics,
            "facts": facts_of(run, self.env, shared.token_set),
            "provenance": provenance() | {"device": str(self.device)} | self._layout(),
        }

    def _layout(self) -> dict[str, Any]:
        """How it ran: on how many devices, so that hours of them can be told from seconds.

        Of ``num_students`` runs that took turns in the process, seconds and speeds hold the turns
        of the others.
        """
        layout = {"num_ranks": self.ranks.world_size, "sharding": self.env.sharding}
        return layout | {"num_students": self.seat.num_runs}

    def _train(self) -> dict[str, float]:
        run, shared, keep = self.run, self.shared, self.seat.keep
        store, teacher = None, None
        if run.is_stored:
            read = repr((run.data, run.text, run.train, run.store, shared.store_dir))
            store = keep(read, shared.open_store)
        loaded = time.monotonic()
        if run.loss.needs_teacher and store is None:
            name = run.teacher_id(run.teacher), repr(run.teacher)
            teacher = keep(name, lambda: shared.load_teacher(run.teacher))
        teacher_seconds = time.monotonic() - loaded
        windows = shared.train_windows
        feed = Feed(run, windows, self.device, store, teacher, self.ranks, seat=self.seat)
        state = checkpoint.load(self.run_dir, torch.device("cpu"))
        with self.journal.going_on(state):
            looping = time.monotonic()
            setup_seconds = looping - self.ready - teacher_seconds
            metrics = train(
                run,
                self.student,
                feed,
                lambda: self._held_out("val", run.eval.num_tokens_during_training),
                self.journal.report,
                self.keeper,
                state,
                self.spread,
                self.record,
            )
            looped = max(time.monotonic() - looping, 1e-9)
        # How much of the loop, evaluation along the way included, steps waited for what they read.
        metrics["perf/wait_frac"] = feed.wait_seconds / looped
        seconds = max(metrics["perf/train_seconds"], 1e-9)
        metrics["perf/tokens_per_second"] = run.num_steps * run.batch_tokens / seconds
        # What a run costs before its first step; a live teacher's own loading apart.
        metrics["perf/setup_seconds"] = setup_seconds
        metrics["perf/teacher_load_seconds"] = teacher_seconds
        return metrics

    def _held_out(self, split: str, num_tokens: int) -> dict[str, float]:
        windows = self.shared.token_set.windows(split)
        measured = held_out_loss(self.student, windows, num_tokens, self.ranks)
        if not math.isfinite(measured["loss"]):  # the last step's update was its end
            raise Diverged(f"loss on {split} is not finite; lower optim.peak_lr or warm up longer.")
        return {f"{split}/{name}": value for name, value in measured.items()}

    def _evaluate(self) -> dict[str, float]:
        evaluation = self.run.eval
        metrics = self._held_out("val", evaluation.num_tokens)
        metrics |= self._held_out("test", evaluation.num_tokens)
        reference: Reference | None = self.shared.reference()
        if reference is not None:
            measured = compare(
                self.student, reference, self.val, evaluation.num_calibration_bins, self.ranks
            )
            metrics |= {f"val/{name}": value for name, value in measured.items()}
        return metrics | evaluation.more(self.student, self.shared, reference, self.ranks)
