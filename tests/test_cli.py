"""The verbs: what each prints, and what bad input gets before any training."""

import ast
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import Shell, finished
from conftest import TINY
from hydra.core.override_parser.types import Quote, QuotedString
from test_data import words, write_corpus

from pdx import cli
from pdx.files import locked, read_json
from pdx.paths import conf_dir

__all__ = ["finished"]

ROOT = Path(cli.__file__).parent.parent
ANALYSIS = ROOT / "analysis"
HEAVY = {"hydra", "omegaconf", "torch", "mlflow", "optuna", "numpy", "pandas", "transformers"}

Pdx = Callable[..., tuple[int, str, str]]


@pytest.fixture
def pdx(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Pdx]:
    """The command line in this process: arguments -> status, output, complaint."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PDX_OUTPUTS", str(tmp_path / "out"))
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setattr(sys, "argv", ["pdx"])

    def inner(*arguments: str) -> tuple[int, str, str]:
        status = cli.main(list(arguments))
        return status, *capsys.readouterr()

    yield inner
    torch.set_num_threads(1)  # a lone run takes every core


# ---- light ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "code",
    [
        "import pdx.cli",
        "from pdx.cli import main; assert main(['--help']) == 0",
        "from pdx.cli import main; assert main(['--version']) == 0",
        "import hydra_plugins.pdx_sweeper",
    ],
)
def test_help_imports_nothing_heavy(code: str):
    """Half a second for --help: kept by what is not imported, which a busy machine cannot blur."""
    listed = f"{code}\nimport sys; print('MODULES', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", listed], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.rpartition("MODULES")[2].split())
    assert not HEAVY & loaded


def test_the_plugins_hydra_imports_at_every_start_are_light():
    code = "import hydra_plugins.pdx_sweeper.sweeper, hydra_plugins.pdx_sweeper.launcher, sys"
    listed = f"{code}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", listed], capture_output=True, text=True, check=True
    )
    assert not (HEAVY - {"hydra", "omegaconf"}) & set(done.stdout.split())


def test_help_names_every_verb(pdx: Pdx):
    status, said, _ = pdx("--help")
    assert status == 0
    for verb in ["train", "plan", "status", "report", "capture", "export", "ui", "axes", "gc"]:
        assert re.search(rf"^  pdx {verb}\b", said, re.M), verb


# ---- boundaries ----------------------------------------------------------------------------------


def imports(file: Path) -> set[str]:
    """Every module that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.add("" if node.level else node.module or "")
    return found


def users_of(package: str, *folders: str) -> set[str]:
    """Files that import a package."""
    files = [f for folder in folders for f in (ROOT / folder).rglob("*.py")]
    assert len(files) > 5
    return {
        file.relative_to(ROOT).as_posix()
        for file in files
        if any(name.split(".")[0] == package for name in imports(file))
    }


def test_one_folder_knows_mlflow_and_one_optuna():
    sources = ("pdx", "hydra_plugins", "analysis")
    for package, folder in (("mlflow", "pdx/tracking"), ("optuna", "pdx/sweep")):
        assert {str(Path(p).parent) for p in users_of(package, *sources)} == {folder}


def test_analysis_reads_tables_and_cost_needs_no_torch():
    assert not users_of("torch", "analysis") | users_of("hydra", "analysis")
    assert not users_of("transformers", "analysis") | users_of("omegaconf", "analysis")
    assert not {n.split(".")[0] for n in imports(ROOT / "pdx" / "cost.py")} & {"torch", "numpy"}


def test_folders_of_analysis_build_in_one_direction():
    """Their order stands in analysis/__init__.py; in each of theirs, what that folder builds on."""
    order = said_of(ANALYSIS, r"those before it: ([^;]*);")
    assert sorted(order) == sorted(file.parent.name for file in ANALYSIS.glob("*/__init__.py"))
    for place, name in enumerate(order):
        builds_on = set(said_of(ANALYSIS / name, r"Builds on ([^.]*)\.")) - {"nothing"}
        assert builds_on <= set(order[:place]), f"{name} builds on what comes after it"
        assert neighbours(ANALYSIS / name) == builds_on, f"{name}: imports and docstring differ"


def said_of(folder: Path, where: str) -> list[str]:
    """The names of folders that a folder's docstring lists."""
    doc = ast.get_docstring(ast.parse((folder / "__init__.py").read_text())) or ""
    (found,) = re.findall(where, doc)
    return [name for name in re.findall(r"\w+", found) if name != "and"]


def neighbours(folder: Path) -> set[str]:
    """What the files of one of analysis's folders import of analysis outside it."""
    found = set()
    for file in folder.glob("*.py"):
        assert not [name for name in imports(file) if name.startswith("pdx.analysis")]
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level > 1:
                found |= {(node.module or alias.name).split(".")[0] for alias in node.names}
    return found


def test_the_loop_knows_neither_sweeps_nor_records():
    told = imports(ROOT / "pdx" / "train.py")
    assert not [n for n in told if n.startswith(("pdx.sweep", "pdx.tracking", "optuna", "mlflow"))]


def test_every_folder_of_code_is_in_the_wheel():
    """An editable install finds what the wheel leaves out; `make test-install` builds one."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {p.parent for top in ("pdx", "analysis") for p in (ROOT / top).rglob("*.py")}
    names = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    ours = {name if name.startswith("pdx") else f"pdx.{name}" for name in names}
    assert ours == {n for n in listed if n not in ("pdx.conf", "pdx.sweeps") and "hydra" not in n}


# ---- bad input -----------------------------------------------------------------------------------

BAD = {
    "verb": (["trian"], 2, r"pdx trian: unknown verb\. Did you mean 'train'\? Known: train,"),
    "key": (["train.num_token=5"], 1, r"train\.num_token: unknown key\. Did you mean 'num_tokens'"),
    "axis": (["lossy=mse"], 1, r"lossy: unknown key\. Did you mean 'loss'\? Known: data,"),
    "added key": (["+loss.temprature=2"], 1, r"loss\.temprature: unknown field of ForwardKL"),
    "value": (["loss=forward_k"], 1, r"loss=forward_k: no such value\. Did you mean 'forward_kl'"),
    "launcher": (["hydra/launcher=pdx_locl"], 1, r"no such value\. Did you mean 'pdx_local'"),
    "type": (["train.num_tokens=abc"], 1, r"train\.num_tokens=abc: must be a whole number\."),
    "null": (["signal.top_k=null"], 1, r"signal\.top_k=null: must be a whole number\."),
    "range": (["optim.peak_lr=-1"], 1, r"optim\.peak_lr=-1\.0: must be > 0"),
    "missing": (["teacher=pretrained"], 1, r"teacher\.path=\?\?\?: must be given"),
    "grammar": (["loss.x=[1,"], 1, r"loss\.x=\[1,: is no override .*write key=value, and quote"),
    "no override": (["mse"], 1, r"mse: is no override .*missing EQUAL.*write key=value"),
    "list": (["loss=mse,none"], 1, r"^ConfigError: loss=mse,none: names several .*add -m"),
    "sweep alone": (["sweep=demo"], 1, r"sweep=demo: is for a multirun; write pdx train -m sweep="),
    "no sweep": (["-m", "sweep=dmo"], 1, r"sweep=dmo: no such file .* Did you mean 'demo'\?"),
    "no scale": (["-m", "sweep=demo", "scale=cp"], 1, r"scale=cp: .* Did you mean 'cpu'\?"),
    "swept key": (
        ["-m", "train.num_token=5,6"],
        1,
        r"train\.num_token: unknown key\. Did you mean",
    ),
    "swept value": (
        ["-m", "loss=mse,forward_k"],
        1,
        r"loss=forward_k: no such value\. Did you mean",
    ),
    "shown": (["-m", "sweep=demo", "--cfg", "job"], 1, r"--cfg: shows one run's config; leave out"),
    "gpus": (["env.gpus=some"], 1, r"env\.gpus=some: must be auto, null or a list of indices"),
    "outputs": (
        ["env.outputs=/proc/no"],
        1,
        r"env\.outputs=/proc/no: nothing can be written",
    ),
    "K": (["data=synthetic", "signal.top_k=65"], 1, r"signal\.top_k=65: must not exceed the vocab"),
    "package": (
        ["loss._target_=os.path.Loss"],
        1,
        r"loss\._target_=os\.path\.Loss: targets must live",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_not_known_is_refused_with_the_nearest_name(pdx: Pdx, case: str, tmp_path: Path):
    arguments, expected, message = BAD[case]
    status, _, complaint = pdx(*([] if case == "verb" else ["train"]), *arguments)
    assert re.search(message, complaint), complaint
    assert "Traceback" not in complaint
    assert complaint.count("\n") == 1, "the message and nothing else, of Hydra's or of ours"
    assert status == expected
    assert not (tmp_path / "out").exists(), "nothing was begun"


def test_a_gpu_that_is_not_there_is_refused_before_anything_is_written(
    pdx: Pdx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    status, _, complaint = pdx("train", "env.device=cuda", "loss=none")
    assert status == 1 and complaint.startswith("ConfigError: env.device=cuda: torch sees no GPU")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Texts of forty documents, and files that are no text."""
    rng = np.random.default_rng(0)
    write_corpus(tmp_path / "text", [words(rng, 300) for _ in range(40)])
    write_corpus(tmp_path / "one", [words(rng, 300)])
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00")
    return tmp_path


FILES = ["data=files", "data.seq_len=16", "data.vocab_size=300", "train.num_tokens=1024"]
MATTER = {
    "nothing matches": (["data.paths=[none/*.txt]"], r"data\.paths=none/\*\.txt: matches nothing"),
    "empty": (["data.paths=[empty.txt]"], r"data\.paths.*empty\.txt"),
    "unreadable": (["data.paths=[bytes.txt]"], r"bytes\.txt cannot be read \('utf-8' codec"),
    "no document for a split": (["data.paths=[one/*.txt]"], r"split .*no document|no document"),
    "a vocabulary of one": (
        ["data.paths=[text/*.txt]", "data.vocab_size=256"],
        r"data\.vocab_size=256: must be from 257",
    ),
    "K above it": (
        ["data.paths=[text/*.txt]", "signal.top_k=301", "store.top_k=301"],
        r"signal\.top_k=301: must not exceed the vocabulary",
    ),
    "epochs": (
        ["data.paths=[text/*.txt]", "train.num_tokens=10000000"],
        r"train\.num_tokens=10000000: is [\d.]+ epochs .* ask for the repeats with train\.max_",
    ),
    "a store that cannot serve": (
        ["data.paths=[text/*.txt]", "signal.top_k=60", "store.top_k=50"],
        r"signal\.top_k=60",
    ),
}


@pytest.mark.parametrize(
    ("case", "multirun"), [*((case, False) for case in MATTER), ("empty", True), ("epochs", True)]
)
def test_text_that_cannot_be_used_is_refused(pdx: Pdx, corpus: Path, case: str, multirun: bool):
    changes, message = MATTER[case]
    sweep = ["-m", "hydra/launcher=basic", "loss=none,mse"] if multirun else []
    status, _, complaint = pdx("train", *sweep, *FILES, *changes)
    assert re.search(message, complaint), complaint
    assert "Traceback" not in complaint
    assert status == 1
    assert not list(corpus.glob("out/runs/*/result.json")), "nothing was trained"


@pytest.mark.parametrize("where", [0, 1, 2])
def test_options_and_overrides_may_be_mixed(pdx: Pdx, where: int):
    """Hydra alone refuses overrides on both sides of an option."""
    arguments = ["loss=mse", "mix.kd_weight=0.25"]
    arguments[where:where] = ["--cfg", "job"]
    status, said, complaint = pdx("train", *arguments)
    assert status == 0, complaint
    assert "pdx.losses.mse" in said and "kd_weight: 0.25" in said


def test_a_class_of_another_package_needs_leave(
    pdx: Pdx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The same conf directory, whose package was not named in env.packages."""
    for name in [name for name in sys.modules if name.split(".")[0] == "mine"]:
        monkeypatch.delitem(sys.modules, name)  # of another test
    shell = Shell(tmp_path)
    shell.write_own_package()
    for sweep in ([], ["-m", "train.seed=0,1"]):
        status, _, complaint = pdx("train", *sweep, "--config-dir", "conf", "loss=odd", *TINY)
        assert status == 1
        assert "loss._target_=mine.losses.Odd: targets must live under 'pdx.' or in" in complaint
    assert "mine" not in sys.modules, "its code was not run"


def test_an_unreachable_tracking_server_is_refused_before_any_work(
    pdx: Pdx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # else 8 seconds of trying
    for sweep in ([], ["-m", "train.seed=0,1"]):
        status, _, complaint = pdx(
            "train", *sweep, *TINY, "loss=none", "env.tracking_uri=http://127.0.0.1:1"
        )
        assert status == 1
        assert "env.tracking_uri=http://127.0.0.1:1: cannot be used (" in complaint
        assert "start the server (`pdx ui`" in complaint and "env.tracking_uri=null" in complaint
    assert not list(tmp_path.glob("out/runs/*")) and not list(tmp_path.glob("out/data/*"))


def test_a_tracking_server_is_not_served_again(pdx: Pdx, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pdx.tracking.connect.experiment_link", lambda env: "/#/experiments/7")
    monkeypatch.setattr(os, "execvpe", lambda *_: pytest.fail("a second server"))
    status, said, _ = pdx("ui", "env.tracking_uri=http://tracker:5001/")
    assert status == 0
    assert said == "MLflow is served already: http://tracker:5001/#/experiments/7\n"


# ---- what verbs do -------------------------------------------------------------------------------


def test_a_search_is_asked_for_on_the_command_line_or_in_a_file(pdx: Pdx, tmp_path: Path):
    axis = {"optim.peak_lr": "interval(0.001, 0.1)"}
    Shell(tmp_path).write_sweep("drawn", axes=axis, search={"sampler": "random", "num_runs": 3})
    status, said, complaint = pdx("plan", "-m", "sweep=drawn")
    assert status == 0, complaint
    assert "search: 3 runs drawn by RandomSampler over optim.peak_lr" in said
    asked = ["hydra/sweeper/sampler=tpe", "hydra.sweeper.num_runs=8"]
    for arguments in (["sweep=drawn"], [*TINY, "optim.peak_lr=interval(0.001,0.1)"]):
        status, said, complaint = pdx("plan", "-m", *arguments, *asked)
        assert status == 0, complaint
        assert "search: 8 runs drawn by TPESampler over optim.peak_lr" in said
    pruned = [*TINY, "train.seed=0,1", "hydra/sweeper/pruner=asha"]
    status, _, complaint = pdx("plan", "-m", *pruned, "hydra.sweeper.objectives=[val/loss,seconds]")
    assert status == 1 and "hydra/sweeper/pruner=" in complaint, "a pruner has one objective"


def test_bounds_of_a_search_are_named_on_the_command_line_or_in_a_file(pdx: Pdx, tmp_path: Path):
    """Their keys are the user's; what refuses a group names the bound that it has read."""
    axis, search = {"optim.peak_lr": "interval(0.001, 0.1)"}, {"sampler": "random", "num_runs": 3}
    Shell(tmp_path).write_sweep("free", axes=axis, search=search)
    bounds = {"constraints": {"perf/peak_memory_gib": 2}}
    Shell(tmp_path).write_sweep("bound", axes=axis, search=search | bounds)
    asked = ["sweep=free", "hydra.sweeper.constraints={perf/peak_memory_gib:2}"]
    for arguments in (asked, ["sweep=bound"]):
        _, _, complaint = pdx("plan", "-m", *arguments, "hydra.sweeper.students_per_worker=2")
        assert "perf/peak_memory_gib of runs that share a process" in complaint
    for said in ("constraints={flops:much}", "constraint={flops:2}"):
        status, _, complaint = pdx("plan", "-m", "sweep=free", f"hydra.sweeper.{said}")
        assert status == 1 and complaint.startswith("ConfigError: ")


def test_a_plan_says_what_its_evaluation_lacks_here(pdx: Pdx, monkeypatch: pytest.MonkeyPatch):
    found = importlib.util.find_spec
    lacking = {"lm_eval"}
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n, *rest: None if n in lacking else found(n, *rest)
    )
    grid = [*TINY, "loss=none", "teacher@eval_teacher=none", "train.seed=0,1"]
    assert pdx("plan", "-m", *grid)[0] == 0
    status, said, complaint = pdx("plan", "-m", *grid, "eval=lm_eval")
    assert status == 1 and "train.seed=1" in said, "the plan is shown nevertheless"
    assert complaint.startswith("ConfigError: eval=lm_eval: the harness is not installed; run pip")


def test_a_field_may_be_set_of_what_only_the_sweeps_file_chooses(pdx: Pdx, tmp_path: Path):
    """Hydra alone would set it in the plain config, whose loss has no such field."""
    Shell(tmp_path).write_sweep(
        "skewed", base=["loss=skewed_forward_kl"], axes={"student": ["s10k"]}
    )
    for value, status in (("0.3", 0), ("3", 1)):
        found, said, complaint = pdx("plan", "-m", "sweep=skewed", f"loss.skew={value}")
        assert found == status, said + complaint
    assert "loss.skew=3.0: must" in complaint
    assert pdx("plan", "-m", "sweep=skewed", "loss.skw=1")[2].startswith("ConfigError: loss.skw:")
    assert pdx("plan", "-m", "sweep=skewed", "~mix")[2].startswith("ConfigError: ")


def test_axes_prints_every_file(pdx: Pdx):
    status, said, _ = pdx("axes")
    assert status == 0
    files = sorted(f for f in conf_dir().glob("*/*.yaml"))
    assert len(files) > 40
    axis = ""
    printed = set()
    for line in said.splitlines():
        axis = line.rstrip("/") if not line.startswith(" ") else axis
        if line.startswith("  ") and line[2] != " ":
            printed.add((axis, line.split()[0]))
            assert len(line.split()) > 3, f"no word on what it is: {line}"
    assert printed == {(f.parent.name, f.stem) for f in files}
    assert "top_k=50" in said


def test_axes_of_one_axis_in_the_order_of_size(pdx: Pdx):
    status, said, _ = pdx("axes", "student")
    names = [line.split()[0] for line in said.splitlines() if re.match(r"  \S", line)]
    assert status == 0 and said.startswith("student/")
    assert names[:5] == [f"peng_{n}" for n in ("330m", "670m", "1p9b", "3p8b", "6p8b")]
    assert names[5:11] == ["s10k", "s30k", "s60k", "s100k", "s300k", "s1m"]
    status, _, complaint = pdx("axes", "los")
    assert status == 1 and "AXIS=los: no such axis. Did you mean 'loss'?" in complaint


def test_the_job_config_is_printed_as_hydra_does(pdx: Pdx):
    status, said, _ = pdx("train", "--cfg", "job", "loss=mse")
    assert status == 0
    assert "_target_: pdx.losses.mse" in said and "hydra:" not in said


def test_a_single_run_prints_what_it_measured(pdx: Pdx, tmp_path: Path):
    status, said, complaint = pdx("train", *TINY, "loss=none", "teacher@eval_teacher=none")
    assert status == 0, complaint
    (result,) = tmp_path.glob("out/runs/*/result.json")
    stored = read_json(result)
    assert f"{result.parent.name} complete" in said
    for key, value in stored["metrics"].items():
        assert re.search(rf"^  {key} +{value:.4f}$", said, re.M), key
    assert str(result.parent) in said
    again, _, _ = pdx("train", *TINY, "loss=none", "teacher@eval_teacher=none")
    assert again == 0 and read_json(result) == stored, "a finished run is not run again"


def test_the_plan_costs_nothing(pdx: Pdx, tmp_path: Path):
    status, said, _ = pdx("plan", "-m", *TINY, "student=s10k,s30k", "train.seed=0,1")
    assert status == 0
    assert "4 runs, 0 done (*), 4 to do" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "text", ["it's", 'a "b"', "back\\slash", "end\\", "a\\'b", "${x}", "\\${x}"]
)
def test_the_command_that_made_a_sweep_is_kept_as_it_was_given(
    pdx: Pdx, monkeypatch: pytest.MonkeyPatch, text: str
):
    """What the report prints can be pasted into a shell, whatever needed quoting."""
    from hydra_plugins.pdx_sweeper.sweeper import PdxSweeper

    def sweep(self: PdxSweeper, arguments: list[str]) -> None:
        seen.append(self.command)

    seen: list[str] = []
    monkeypatch.setattr(PdxSweeper, "sweep", sweep)
    override = "+x=" + QuotedString(text, Quote.single).with_quotes()
    assert pdx("train", "-m", "sweep=demo", override)[0] == 0
    assert shlex.split(seen[0]) == ["pdx", "train", "-m", "sweep=demo", override]


def test_an_exported_student_is_the_runs_model(finished: Shell, pdx: Pdx, tmp_path: Path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    point = finished.plan()["points"][0]
    where = ["env.outputs=" + str(finished.out)]
    status, said, complaint = pdx("export", point["run_id"][:6], "exported", *where)
    assert status == 0, complaint
    assert "AutoModelForCausalLM.from_pretrained('exported') loads it" in said
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "exported")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "exported")

    from pdx.frozen import load_model

    own = load_model(finished.out / "runs" / point["run_id"] / "model", "float32")
    ids = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])
    with torch.no_grad():
        assert torch.equal(model(ids).logits, own(ids).logits)
    data = (
        finished.out
        / "data"
        / read_json(finished.out / "runs" / point["run_id"] / "result.json")["facts"]["data_digest"]
    )
    assert tokenizer.get_vocab() == AutoTokenizer.from_pretrained(data / "tokenizer").get_vocab()

    again = pdx("export", point["run_id"], "exported", *where)
    assert again[0] == 1 and "DIR=exported: exists and is not empty" in again[2]


def test_export_refuses_what_it_cannot_find(pdx: Pdx, finished: Shell):
    assert "give a run's id" in pdx("export", "abc")[2]
    status, _, complaint = pdx("export", "xyz", "d", f"env.outputs={finished.out}")
    assert status == 1
    assert re.search(r"RUN=xyz: no finished runs .* known are [0-9a-f]{12} \(", complaint)
    described = r"[0-9a-f]{12} \(%s, [\d,]+ parameters, [\d,]+ tokens, seed \d+\)"
    assert re.search(described % "a teacher", complaint)
    assert re.search(described % "loss=none", complaint)
    status, _, complaint = pdx("export", "", "d", f"env.outputs={finished.out}")
    assert status == 1 and "finished runs" in complaint, "not one of many at random"


def test_gc_removes_what_no_sweep_needs_and_nothing_else(finished: Shell, tmp_path: Path, pdx: Pdx):
    out = tmp_path / "gc"
    for name in ("data", "runs", "stores", "teachers", "sweeps"):
        shutil.copytree(finished.out / name, out / name)
    where = f"env.outputs={out}"
    needed = {f.relative_to(out) for f in out.rglob("*") if f.is_file()}
    status, said, _ = pdx("gc", where)
    assert status == 0 and "no sweep needs it" not in said
    assert re.search(r"^ +0\.0 MiB  would be freed by `pdx gc --delete`$", said, re.M)

    run = next((out / "runs").iterdir())
    for extra in ("runs/abandoned", "stores/old", "teachers/old", "data/old", "data/.tmp-x-1"):
        shutil.copytree(run, out / extra)
    (out / "runs" / "abandoned" / "result.json").unlink()
    (out / "stores" / "old" / "manifest.json").write_text('{"teacher_id": "gone"}')
    status, said, _ = pdx("gc", where)
    assert said.count("no sweep needs it") == 4 and said.count("half-made") == 1
    assert (out / "runs" / "abandoned").exists(), "gc alone only lists"

    with locked(out / "runs" / run.name / ".lock"):
        status, _, complaint = pdx("gc", "--delete", where)
    assert status == 1 and "a process is at work here" in complaint
    assert (out / "runs" / "abandoned").exists()

    status, said, _ = pdx("gc", "--delete", where)
    assert status == 0 and re.search(r"MiB  freed$", said, re.M)
    assert said.count(", deleted") == 5 and "runs/abandoned  no sweep needs it, deleted" in said
    assert {f.relative_to(out) for f in out.rglob("*") if f.is_file()} == needed


def test_gc_keeps_single_runs_and_the_data_of_planned_ones(
    finished: Shell, tmp_path: Path, pdx: Pdx
):
    out = tmp_path / "gc"
    for name in ("data", "runs", "stores", "teachers", "sweeps"):
        shutil.copytree(finished.out / name, out / name)
    where = f"env.outputs={out}"
    everything = {f.relative_to(out) for f in out.rglob("*") if f.is_file()}
    plans = list(out.glob("sweeps/*/plan.json"))
    kept = {path: path.read_text() for path in plans}
    for path in plans:  # all runs are single ones now
        path.unlink()
    status, said, _ = pdx("gc", "--delete", where)
    assert status == 0 and "needed by a single run" in said and "deleted" not in said
    status, said, _ = pdx("gc", "--runs", where)
    assert "by `pdx gc --delete --runs`" in said and "no sweep needs it" in said

    for path, text in kept.items():
        path.write_text(text)
    left = {f.relative_to(out) for f in out.rglob("*") if f.is_file()}
    assert left == everything
    results = list(out.glob("runs/*/result.json"))
    for result in results:  # planned and not run yet: its data stay
        result.unlink()
    for digests in (True, False):  # a plan may be older than its data
        for path, text in kept.items():
            plan = json.loads(text)
            for point in plan["points"]:
                point["facts"]["data_digest"] = (digests and point["facts"]["data_digest"]) or None
            path.write_text(json.dumps(plan))
        status, said, _ = pdx("gc", "--delete", "--runs", where)
        assert list(out.glob("data/*/manifest.json"))
    drawn = out / "sweeps" / "search" / "points"
    drawn.mkdir(parents=True)
    shutil.copytree(out / "runs" / results[0].parent.name, out / "runs" / "drawn")
    point = {"run_id": "drawn", "facts": {"teacher_id": None, "data_digest": "x"}, "config": {}}
    (drawn / "0.json").write_text(json.dumps(point))
    status, said, _ = pdx("gc", where)
    assert "runs/drawn  needed" in said


def test_arguments_that_a_verb_does_not_take_are_refused(pdx: Pdx):
    for arguments in (["axes", "loss", "mix"], ["gc", "--delet"], ["ui", "prt=1"]):
        status, _, complaint = pdx(*arguments)
        assert status == 1
        assert re.search(rf"pdx {arguments[0]} .*{arguments[-1]}: not known here; it", complaint)


def test_a_closed_pipe_is_no_error():
    command = f"{sys.executable} -m pdx.cli axes | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0 and done.stderr == ""
