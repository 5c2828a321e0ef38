"""Runs of pdx on the pretended GPU: ``on_a_gpu.py LIBRARY WHAT`` reads arguments from its stdin.

Prints one JSON object as its last line. A script, for the pretended GPU wants a process of its own.
"""

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pretended_gpu


def runs(outputs: str, variants: list[list[str]]) -> dict[str, Any]:
    """Metrics of each run, by its overrides."""
    from pdx.execute import execute

    return {" ".join(v): execute(*composed(outputs, v), quiet=True)["metrics"] for v in variants}


def group(outputs: str, variants: list[list[str]]) -> dict[str, Any]:
    """The same of runs that take turns in this process."""
    from pdx.execute import execute
    from pdx.together import Group

    turns = Group(len(variants))

    def one(number: int) -> dict[str, float]:
        with turns.seat(number) as seat:
            run, env = composed(outputs, variants[number])
            return execute(run, env, quiet=True, seat=seat)["metrics"]

    with ThreadPoolExecutor(len(variants)) as pool:
        found = pool.map(one, range(len(variants)))
    return {" ".join(v): metrics for v, metrics in zip(variants, found, strict=True)}


def verify(outputs: str, variant: list[str]) -> dict[str, Any]:
    """What `pdx verify` finds of a store that was captured on the host."""
    from pdx.shared import Shared

    verdict = Shared.of(*composed(outputs, variant)).verify_store()
    return {"says": str(verdict)}


def benchmarks(outputs: str) -> dict[str, Any]:
    """The smallest cases of what `make bench-gpu` measures, by the scripts' own functions."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
    import capture
    import loss
    import step
    import students
    from conftest import tiny_overrides

    capture.TEACHERS["cuda"]["least"] = (32, 1, 128, 1_024)
    capture.BATCH_TOKENS["cuda"] = 512
    captured = capture.measure("least", "cuda", 1)
    least = dict.fromkeys(loss.SHAPES["cuda"], 0) | {"vocab": 64, "tokens": 32, "width": 8}
    ours = [name for name, peer in loss.CASES.items() if not peer]
    losses = {name: loss.run_case(name, least | {"top_k": 4}, "cuda") for name in ours}
    usual = ("env.device=cuda", "data.vocab_size=128")  # of 50 ids kept
    tiny = tiny_overrides(Path(outputs), *usual)[1:]  # env is named by the scripts
    small = [setting for setting in tiny if not setting.startswith(("store.", "signal."))]
    step.COMMON[:] = students.COMMON[:] = [*step.COMMON, *small]
    step.product_flops = lambda device, precision: 1.0  # a product of 8,192 by 8,192 on a host
    more = step.GPU["settings"][1:]  # without the vocabulary
    shape = step.Shape(student="s10k", device="cuda", num_steps=8, settings=more)
    step.SHAPES["least"] = step.SHAPES["demo, s10k"] = shape
    steps = {kind: step.run_case("least", kind) for kind in step.KINDS}
    students.STEPS = 2
    many = {
        f"{source} {how}": students.run_case("demo, s10k", source, how, 2, "cuda")
        for source in students.SOURCES
        for how in ("together", "stacked")
    }
    return {"capture": captured, "loss": losses, "step": steps, "students": many}


def mixed(_: None) -> dict[str, Any]:
    """What the pretended GPU says to mistakes."""
    import torch

    said: dict[str, Any] = {}
    there, host = torch.ones(2, device="cuda"), torch.ones(2)
    for name, mistake in {
        "add": lambda: there + host,
        "numpy": there.numpy,
        "index": lambda: host[torch.zeros(1, dtype=torch.int64, device="cuda")],
    }.items():
        try:
            mistake()
        except (RuntimeError, TypeError) as err:
            said[name] = str(err)
    copied = torch.cuda.Event()
    host.copy_(2 * there, non_blocking=True)
    copied.record()
    said["early"] = host.tolist()
    copied.synchronize()
    return said | {"in time": host.tolist()}


def composed(outputs: str, overrides: list[str]) -> Any:
    """A tiny run on the GPU, as the fixture ``tiny`` composes it on the host."""
    from conftest import tiny_overrides
    from hydra import compose, initialize_config_dir

    from pdx.config import run_of
    from pdx.paths import conf_dir

    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = compose("config", tiny_overrides(Path(outputs), "env.device=cuda", *overrides))
    return run_of(config)


if __name__ == "__main__":
    pretended_gpu.install(Path(sys.argv[1]))
    import torch

    from hydra_plugins.pdx_sweeper import register
    from pdx import reduce

    reduce.CHUNK_ELEMENTS_GPU = 32 * 100  # three chunks a micro-batch of the tiny runs
    torch.set_num_threads(1)
    register()
    what = {f.__name__: f for f in (runs, group, verify, benchmarks, mixed)}[sys.argv[2]]
    print(json.dumps(what(*json.load(sys.stdin))))
