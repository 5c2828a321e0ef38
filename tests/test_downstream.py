"""eval=lm_eval on a task of our own, made of this repository's own text, against sums by hand."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from pdx.config import Run, run_of
from pdx.env import Env
from pdx.errors import ConfigError
from pdx.execute import execute

pytest.importorskip("lm_eval")
pytestmark = pytest.mark.filterwarnings("default")  # the harness's own

ROOT = Path(__file__).parents[1]
SETTINGS = [
    "data=files",
    f"data.paths=[{ROOT}/analysis/laws/*.py]",
    "data.group_by=document",
    "data.vocab_size=300",
    "data.seq_len=64",
    "data.val_frac=0.2",
    "data.test_frac=0.2",
    "data.teacher_frac=0",
    "train=debug",
    "train.num_tokens=1024",
    "train.max_epochs=1000",
    "student=s10k",
    "loss=none",
    "teacher=none",
    "eval.num_tokens=512",
    "eval.num_tokens_during_training=512",
    "eval.num_tokens_teacher=0",
]


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Which line goes on so? Twelve lines of a sweep file, cut in two, beside another end."""
    folder = tmp_path_factory.mktemp("tasks")
    lines = [
        line
        for line in (ROOT / "sweeps" / "baselines.yaml").read_text().splitlines()
        if 60 < len(line) < 90
    ][:12]
    halves = [(line[:40], line[40:]) for line in lines]
    with open(folder / "lines.jsonl", "w") as file:
        for i, (begin, end) in enumerate(halves):
            other = halves[(i + 1) % len(halves)][1]
            choices = [end, other] if i % 2 == 0 else [other, end]
            file.write(json.dumps({"begin": begin, "choices": choices, "gold": i % 2}) + "\n")
    task = {
        "task": "pdx_lines",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "lines.jsonl")}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{begin}}",
        "doc_to_target": "gold",
        "doc_to_choice": "choices",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    (folder / "pdx_lines.yaml").write_text(yaml.safe_dump(task))
    return folder


def test_a_run_answers_a_task_of_our_own(
    compose_cfg: Callable[..., Any], tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    asked = ["eval=lm_eval", "eval.tasks=[pdx_lines]", f"eval.include_path={tasks}"]
    outputs = f"env.outputs={tmp_path / 'out'}"
    run, env = run_of(compose_cfg(*SETTINGS, *asked, outputs))
    result = execute(run, env, quiet=True)
    found = result["metrics"]
    assert math.isfinite(found["val/loss"]) and "lm_eval/pdx_lines/acc" in found

    # by hand, one question at a time
    from pdx.frozen import load_model
    from pdx.shared import Shared

    model = load_model(env.paths.runs / run.run_id / "model", "float32").eval()
    tokenizer = Shared.of(run, env).token_set.tokenizer()
    right, lines = (
        0,
        [json.loads(line) for line in (tasks / "lines.jsonl").read_text().splitlines()],
    )
    for line in lines:
        scores = []
        for choice in line["choices"]:
            whole = tokenizer.encode(line["begin"] + choice, add_special_tokens=False)
            start = len(tokenizer.encode(line["begin"].rstrip(), add_special_tokens=False))
            with torch.no_grad():
                logprobs = model(torch.tensor([whole])).logits[0].double().log_softmax(-1)
            scores.append(sum(float(logprobs[i - 1, whole[i]]) for i in range(start, len(whole))))
        right += scores.index(max(scores)) == line["gold"]
    assert found["lm_eval/pdx_lines/acc"] == pytest.approx(right / len(lines))

    before = run.run_id
    (tasks / "more.txt").write_text("another file of the tasks")
    again = run_of(compose_cfg(*SETTINGS, *asked, outputs))[0]
    assert again.run_id != before, "tasks of one's own are part of what a run is"


def test_greedy_answers_and_whole_texts(tiny_at: Callable[..., tuple[Run, Env]], tmp_path: Path):
    """A student of one layer: its own greedy answer, cut at its end; sums over a long text."""
    from pdx.harness import Asked

    run, _ = tiny_at(tmp_path / "out")
    model = run.student.init(32, 16, seed=0).eval()

    class Letters:
        eos_token_id = 31

        def encode(self, text: str, add_special_tokens: bool) -> list[int]:
            return [ord(c) - ord("a") for c in text]

        def decode(self, ids: Any, skip_special_tokens: bool) -> str:
            return "".join(chr(int(i) + ord("a")) for i in ids if int(i) != 31)

    asked: Any = Asked(model, Letters(), 16, torch.device("cpu"))
    ids, said = [0, 1, 2], []
    for _ in range(5):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] == 31:
            break
        said.append(chr(ids[-1] + ord("a")))
    request = SimpleNamespace(args=("abc", {"until": [], "max_gen_toks": 5}), task_name="t")
    (answer,) = asked.generate_until([request])
    assert answer == "".join(said)
    cut = SimpleNamespace(args=("abc", {"until": said[1], "max_gen_toks": 5}), task_name="t")
    assert asked.generate_until([cut]) == [answer.split(said[1])[0]]
    drawn = {"do_sample": True, "temperature": 0.7}
    with pytest.raises(ConfigError, match="draws its answers"):
        asked.generate_until([SimpleNamespace(args=("abc", drawn), task_name="t")])

    text = "abcdefghijklmnopqrstuvwxyz" * 2
    (total,) = asked.loglikelihood_rolling([SimpleNamespace(args=(text,))])
    tokens, wanted = [31, *asked.tok_encode(text)], 0.0
    for first in range(0, len(tokens) - 1, 16):
        part = tokens[first : first + 17]
        if first + 17 > len(tokens):  # the last window looks as far back as it can
            part = tokens[-17:]
        with torch.no_grad():
            logprobs = model(torch.tensor([part[:-1]])).logits[0].double().log_softmax(-1)
        count = min(16, len(tokens) - 1 - first)
        rows = range(len(part) - 1 - count, len(part) - 1)
        wanted += sum(float(logprobs[i, part[i + 1]]) for i in rows)
    assert total == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("eval.tasks=[]", r"eval.tasks=\[\]: must name tasks"),
        ("eval.tasks=[piqa,piqa]", "each once"),
        ("eval.tasks=['mmlu:six']", "must end in a whole number"),
        ("eval.limit=0", "eval.limit=0: must be >= 1"),
        ("eval.include_path=nowhere", "is no folder"),
    ],
)
def test_tasks_that_cannot_be_asked_are_refused(
    tiny_at: Callable[..., tuple[Run, Env]], tmp_path: Path, override: str, message: str
):
    with pytest.raises(ConfigError, match=message):
        tiny_at(tmp_path / "out", "eval=lm_eval", override)


def test_an_unknown_task_is_refused_before_training(
    tiny_at: Callable[..., tuple[Run, Env]],
    tasks: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    from pdx import harness

    def own(include_path: str, include_defaults: bool = False) -> Any:
        return manager(include_path=include_path, include_defaults=False)

    manager = harness.TaskManager
    monkeypatch.setattr(harness, "TaskManager", own)  # the harness's own thousands take seconds
    settings = ["eval=lm_eval", f"eval.include_path={tasks}", "eval.tasks=[pdx_linse]"]
    run, env = tiny_at(tmp_path / "out", *settings, "loss=none", "teacher@eval_teacher=none")
    with pytest.raises(ConfigError, match="pdx_linse is no task"):
        execute(run, env, quiet=True)
    assert not (tmp_path / "out" / "data").exists()
