"""One bar over a whole sweep: tokens trained of tokens planned."""

import json
import threading
from pathlib import Path

from tqdm import tqdm

from pdx.env import Env
from pdx.sweep.plan import Plan

SECONDS = 1.0


def watch(plan: Plan, env: Env, stop: threading.Event) -> None:
    """Follow the run folders until told to stop; works whatever launched the workers."""
    total = sum(p.facts["num_tokens"] for p in plan.points)
    done: set[str] = set()
    with tqdm(total=total, desc="sweep", unit="tok", unit_scale=True, smoothing=0.05) as bar:
        while True:
            last = stop.wait(SECONDS)
            tokens = 0.0
            for point in plan.points:
                if point.run_id not in done and env.paths.result(point.run_id).exists():
                    done.add(point.run_id)
                if point.run_id in done:
                    tokens += point.facts["num_tokens"]
                else:
                    tokens += tokens_of(env.paths.runs / point.run_id / "metrics.jsonl")
            if bar.n == 0:
                bar.initial = tokens  # what was finished before is no speed
            bar.set_postfix_str(f"{len(done)}/{len(plan.points)} runs", refresh=False)
            bar.update(tokens - bar.n)
            if last:
                return


def tokens_of(log: Path) -> float:
    """Tokens trained so far, from the last whole line of a run's metrics."""
    try:
        with open(log, "rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - 4096))
            lines = file.read().split(b"\n")
    except FileNotFoundError:
        return 0.0
    for line in reversed(lines):
        try:
            return json.loads(line)["tokens"]
        except (json.JSONDecodeError, KeyError):
            continue
    return 0.0
