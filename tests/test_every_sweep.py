"""Every file of sweeps/ at scale=cpu is run by the real command, its steps cut (slow)."""

import html
import json
from typing import Any

import pytest
import yaml
from command_line import Shell

from pdx.files import read_json
from pdx.paths import sweeps_dir

FILES = sorted(path.stem for path in sweeps_dir().glob("*.yaml"))
TIMES = 40  # fewer tokens, of students and of teachers alike
# A Markov source that holds top-100, windows of 64 as in the setup, one pool of text=selected.
SMALL = [
    "data=synthetic",
    "data.vocab_size=128",
    "data.num_tokens_student=131072",
    "data.num_tokens_teacher=65536",
    "data.num_tokens_val=4096",
    "data.num_tokens_test=4096",
    "train=debug",
    "train.num_tokens=4096",
    "teacher.num_tokens=16384",
    "teacher.batch_size=16",
    "store.shard_tokens=4096",
    "eval.num_tokens=2048",
    "eval.num_tokens_during_training=1024",
    "eval.num_tokens_teacher=1024",
]
CUT = ("data", "eval.", "train.batch_size", "train.micro_batch_size", "store.shard_tokens")


OF_SYNTHETIC = {"prose": "open", "code": "sure"}  # its own domains


def fewer(key: str, values: list[Any]) -> list[Any]:
    """An axis with its lengths divided, of its seeds the first two, of its rates the second."""
    if key == "routing.domains":
        return [[OF_SYNTHETIC[name] for name in names] for names in values]
    if key.endswith(".num_tokens"):
        return [max(512, int(value) // TIMES // 512 * 512) for value in values]
    if key == "optim.peak_lr" and len(values) > 1:
        return values[1:2]
    if key.endswith(".seed"):
        return values[:2]
    return values


def override(text: str) -> str:
    key, _, value = text.partition("=")
    return f"{key}={','.join(str(v) for v in fewer(key, value.split(',')))}"


def cell(values: dict[str, Any]) -> dict[str, Any]:
    return {key: fewer(key, [value])[0] for key, value in values.items()}


def cut(name: str) -> dict[str, Any]:
    """A sweep file at scale=cpu on ``SMALL``: two seeds and one rate of each cell."""
    written = yaml.safe_load((sweeps_dir() / f"{name}.yaml").read_text())
    text = json.loads(json.dumps(written))  # what a YAML alias repeats is not cut twice
    block = text["scales"]["cpu"]
    block = {k: v for k, v in block.items() if k not in ("setup", "expected_runs")}
    base = [*text.get("base", []), *block.get("base", [])]
    if "teacher@eval_teacher=trained" in base:  # that of the runs
        base.append(f"eval_teacher.num_tokens={16384 * TIMES}")
    text["base"] = [*SMALL, *(override(o) for o in base if not o.startswith(CUT))]
    block["base"] = []
    if "seeds" in block:
        block["seeds"] = block["seeds"][:2]
    axes = block["axes"].items()
    block["axes"] = {k: fewer(k, v) if isinstance(v, list) else v for k, v in axes}
    control = block.get("control", [])
    nested = [control] if control and isinstance(control[0], str) else control
    block["control"] = [[override(o) for o in one] for one in nested]
    if "search" in block:
        block["search"]["num_runs"] = 4
        block["search"]["confirm"] = {"num_winners": 1, "seeds": [8, 9]}
    forbidden = []
    for entry in block.get("forbid", []):
        if "routing.domains" in entry:
            entry["routing.domains"] = fewer("routing.domains", entry["routing.domains"])
        if "train.seed" in entry:
            entry["train.seed"] = [s for s in entry["train.seed"] if s in block["seeds"]]
        rate = entry.get("optim.peak_lr")
        is_cut = rate is not None and rate not in block["axes"]["optim.peak_lr"]
        if entry.get("train.seed") != [] and not is_cut:
            forbidden.append(entry)
    block["forbid"] = forbidden
    for claims in (text.get("claims", {}), block.get("claims", {})):
        for claim in claims.values():
            for side in (claim, claim.get("beyond", {})):
                side |= {k: cell(side[k]) for k in ("treatment", "control") if k in side}
    text["scales"] = {"cpu": block}
    return text


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """One terminal for all: sweeps share teachers, stores and controls, as they do in earnest."""
    shell = Shell(tmp_path_factory.mktemp("sweeps"))
    (shell.root / "sweeps").mkdir()
    return shell


def run(shell: Shell, name: str) -> None:
    (shell.root / "sweeps" / f"{name}.yaml").write_text(yaml.safe_dump(cut(name)))
    shell.pdx("train", "-m", f"sweep={name}", "env.num_workers=2")
    (directory,) = shell.out.glob(f"sweeps/{name}-cpu-*")
    plan = read_json(directory / "plan.json")
    ids = {point["run_id"] for point in plan["points"]}
    done = {p.parent.name for p in shell.out.glob("runs/*/result.json")}
    assert ids and ids <= done
    page = html.unescape((directory / "report" / "report.html").read_text())
    for claim in plan["claims"]:
        runs = [cell["runs"] for cell in claim["cells"]]
        assert (runs and all(runs)) or claim["not_testable"], f"{claim['name']} rests on nothing"
        assert claim["says"] in page
    assert all(read_json(shell.out / "runs" / i / "result.json")["metrics"] for i in ids)


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_a_sweep_runs(shell: Shell, name: str):
    run(shell, name)
