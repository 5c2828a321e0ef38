"""Measure cases in fresh processes, in turn; keep what was found as JSON and as a table.

Standard library only: a peer's script imports it from an environment of its own.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
MIB = 2**20

Measured = dict[str, list[dict[str, float]]]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One thing to measure: a script that prints one JSON object of figures as its last line."""

    name: str
    argv: Sequence[str]
    python: str = sys.executable


def environment(name: str, *requirements: str, then: Sequence[str] = ()) -> str:
    """The interpreter of a peer's own environment, made on first use; pip does the rest.

    Args:
        then: installed after the rest, over what that asks for.
    """
    directory = HERE / ".envs" / name
    python = str(directory / "bin" / "python")
    stamp, wanted = directory / ".requirements", " ".join([*requirements, *then])
    if not stamp.exists() or stamp.read_text() != wanted:
        print(f"benchmarks: making {directory}: {wanted}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(directory)], check=True)
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        for wanted_now in filter(None, (requirements, then)):
            subprocess.run([*pip, *wanted_now], check=True)
        stamp.write_text(wanted)
    return python


def interleave(cases: Sequence[Case], repeats: int) -> Measured:
    """Each case once, then each again: what disturbs the machine disturbs all of them alike."""
    measured: Measured = {case.name: [] for case in cases}
    for repeat in range(repeats):
        for case in cases:
            done = subprocess.run(
                [case.python, *case.argv],
                stdout=subprocess.PIPE,
                text=True,
                env=os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
            )
            if done.returncode:
                raise SystemExit(f"benchmarks: {case.name}: exit status {done.returncode}")
            figures = json.loads(done.stdout.strip().splitlines()[-1])
            measured[case.name].append(figures)
            print(f"{repeat + 1}/{repeats} {case.name}: {figures}", file=sys.stderr, flush=True)
    return measured


# ---- inside a case ---------------------------------------------------------------------------


def peak_mib(work: Callable[[], Any], device: str = "cpu") -> float:
    """MiB that ``work`` adds at its peak: resident memory of the process (Linux), or of the GPU."""
    if device == "cuda":
        import torch

        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        work()
        return (torch.cuda.max_memory_allocated() - before) / MIB
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew from what is resident
    before = _resident("VmRSS")
    work()
    return (_resident("VmHWM") - before) / MIB


def _resident(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {key} in /proc/self/status")


def seconds(work: Callable[[], Any], repeats: int = 1, device: str = "cpu") -> float:
    """Seconds of one call, the median of ``repeats``: CPU time of the process, or GPU wall time."""
    found = []
    for _ in range(repeats):
        began = _clock(device)
        work()
        found.append(_clock(device) - began)
    return statistics.median(found)


def _clock(device: str) -> float:
    if device != "cuda":
        return time.process_time()
    import torch

    torch.cuda.synchronize()
    return time.perf_counter()


# ---- after the cases -------------------------------------------------------------------------


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, min and max."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def figure(measured: Measured, case: str, key: str) -> dict[str, float]:
    """One figure of one case over its repetitions."""
    return spread([figures[key] for figures in measured[case]])


def ratio(measured: Measured, case: str, to: str, key: str) -> dict[str, float]:
    """One case over another, repetition by repetition."""
    pairs = zip(measured[case], measured[to], strict=True)
    return spread([ours[key] / theirs[key] for ours, theirs in pairs])


def shown(value: dict[str, float], digits: int = 2) -> str:
    """``median (min to max)``."""
    return "{median:.{n}f} ({min:.{n}f} to {max:.{n}f})".format(n=digits, **value)


def machine() -> dict[str, Any]:
    """Where and when this was measured."""
    from importlib.metadata import PackageNotFoundError, version

    versions = {}
    for package in ("torch", "numpy", "transformers"):
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    with open("/proc/cpuinfo") as file:
        models = {line.split(":")[1].strip() for line in file if line.startswith("model name")}
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "processor": ", ".join(sorted(models)) or platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "python": platform.python_version(),
        "versions": versions,
    }


def machine_line() -> str:
    """The same in one line, under a table."""
    facts = machine()
    versions = ", ".join(f"{k} {v}" for k, v in facts["versions"].items())
    return (
        f"{facts['date']}, {facts['processor']}, {facts['cores']} cores, "
        f"{facts['memory_gib']} GiB, Python {facts['python']}, {versions}."
    )


def save(name: str, results: dict[str, Any]) -> None:
    """``benchmarks/results/NAME.json``."""
    path = HERE / "results" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"machine": machine()} | results, indent=1) + "\n")


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def write_section(name: str, text: str) -> None:
    """Replace what stands between ``<!-- NAME -->`` and ``<!-- /NAME -->`` in README.md."""
    path = HERE / "README.md"
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    page = path.read_text()
    if begin not in page:
        page += f"\n{begin}\n{end}\n"
    before, rest = page.split(begin, 1)
    path.write_text(f"{before}{begin}\n\n{text.strip()}\n\n{end}{rest.split(end, 1)[1]}")
