"""What a run says of itself along the way: its metrics.jsonl, a bar, and whoever watches."""

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pdx.config import Run
from pdx.files import write_text
from pdx.ranks import Ranks

Observe = Callable[[int, dict[str, float]], bool]


class Journal:
    """Each step's metrics of one run; rank 0 writes, and its word on stopping holds for all.

    Args:
        observe: gets them beside the folder, and may stop the run.

    Attributes:
        pruned: whether it was stopped.
    """

    def __init__(
        self, run: Run, run_dir: Path, ranks: Ranks, observe: Observe | None, quiet: bool
    ) -> None:
        self.run, self.ranks, self.observe, self.quiet = run, ranks, observe, quiet
        self.path = run_dir / "metrics.jsonl"
        self.pruned = False

    @contextlib.contextmanager
    def going_on(self, state: dict[str, Any] | None) -> Iterator[None]:
        """From a checkpoint, or from the start."""
        step = state["step"] if state else 0
        if self.ranks.leads:
            self._drop_after(step)
            if state:
                print(f"{self.run.run_id}: going on from step {step}", file=sys.stderr)
        with tqdm(
            total=self.run.num_steps * self.run.batch_tokens,
            initial=step * self.run.batch_tokens,  # of another process: not this one's speed
            desc=self.run.run_id,
            unit="tok",
            unit_scale=True,
            disable=self.quiet,
            mininterval=0.1 if sys.stderr.isatty() else 10.0,
        ) as self.bar:
            yield

    def _drop_after(self, step: int) -> None:
        """Forget what a killed process logged after the checkpoint that is gone on from."""
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        kept = []
        for line in lines:
            with contextlib.suppress(json.JSONDecodeError):  # a line cut off by the kill
                if json.loads(line)["step"] < step:  # that of the checkpoint comes again
                    kept.append(line + "\n")
        write_text(self.path, "".join(kept))

    def report(self, step: int, metrics: dict[str, float]) -> bool:
        """One step's metrics; whether the run is to stop."""
        stop = self._say(step, metrics) if self.ranks.leads else False
        self.pruned = self.ranks.agree(stop and step < self.run.num_steps)
        return self.pruned

    def _say(self, step: int, metrics: dict[str, float]) -> bool:
        with open(self.path, "a") as file:
            file.write(json.dumps({"step": step} | metrics) + "\n")
        self.bar.update(metrics["tokens"] - self.bar.n)
        self.bar.set_postfix(loss=f"{metrics['train/loss']:.3f}", refresh=False)
        return self.observe is not None and self.observe(step, metrics)
