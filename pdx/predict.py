"""`pdx predict`: what a student that nobody trained would reach and cost."""

import json
import math
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from pdx.build import did_you_mean
from pdx.cost import Shape
from pdx.errors import ConfigError, SweepError
from pdx.files import for_json
from pdx.paths import Outputs, conf_dir, default_outputs

KEYS = {
    "sweep": "the sweep's name or id, or give its directory or runs.parquet instead",
    "scale": "block of the sweep's file",
    "student": "a file of conf/student, for its parameters and exact FLOPs",
    "student.params": "non-embedding parameters, such as 1e9",
    "train.num_tokens": "tokens of the student; as in the sweep if it has one count or one ratio",
    "teacher": "id of one of the runs' teachers, or its first letters",
    "teacher.loss": "loss of another teacher in nats/token, by the distillation law",
    "metric": "what is predicted (val/loss)",
    "json": "a file for everything; - prints it",
    "env.outputs": "where the sweep is",
    "resamples": "of the bootstrap (400)",
}
Flops = Callable[[float, float], tuple[float, float, str]]


def main(arguments: list[str]) -> None:
    """Read, predict, print, and write what was asked for.

    Raises:
        PdxError: an argument or the runs; one sentence says which and what to do.
    """
    if {"-h", "--help"} & set(arguments):
        print("pdx predict sweep=NAME|DIRECTORY|TABLE KEY=VALUE ...\n")
        print("\n".join(f"  {key + '=':18} {meaning}" for key, meaning in KEYS.items()))
        return
    given, source = _arguments(arguments)
    outputs = Outputs(Path(given.get("env.outputs", default_outputs())))
    path = Path(source) if source else find_sweep(outputs, given.get("sweep"), given.get("scale"))
    metric = given.get("metric", "val/loss")
    if ("student" in given) == ("student.params" in given):
        raise ConfigError("student: give either student=NAME or student.params=NUMBER.")
    from pdx.analysis.predictions.finished import (  # pyright: ignore[reportMissingImports]
        of_teacher,
        read_runs,
        usual_tokens,
    )
    from pdx.analysis.predictions.forecast import Target  # pyright: ignore[reportMissingImports]
    from pdx.analysis.predictions.predict import predict  # pyright: ignore[reportMissingImports]
    from pdx.analysis.tables.prediction import summary  # pyright: ignore[reportMissingImports]

    runs = read_runs(path, None if source else outputs.runs, metric)
    teacher_loss = (
        _number("teacher.loss", given["teacher.loss"]) if "teacher.loss" in given else None
    )
    if teacher_loss is None:
        runs = of_teacher(runs, given.get("teacher"))
    num_params, flops = _student(given, _one(runs, "vocab_size"), _one(runs, "seq_len"))
    tokens = given.get("train.num_tokens")
    target = Target(
        num_params=num_params,
        num_tokens=_number("train.num_tokens", tokens)
        if tokens
        else usual_tokens(runs, num_params),
        teacher_loss=teacher_loss,
    )
    resamples = int(_number("resamples", given.get("resamples", "400")))
    if resamples < 100:
        raise ConfigError(f"resamples={resamples}: too few for an interval; give 100 or more.")
    found = predict(runs, target, path.name, metric, flops, resamples)
    raw = {**found.to_json(), "command": shlex.join(["pdx", "predict", *arguments])}
    text = json.dumps(for_json(raw), indent=1, allow_nan=False)
    if given.get("json") == "-":
        print(text)
        return
    print(summary(found))
    if "json" in given:
        from pdx.files import write_text

        write_text(Path(given["json"]), text + "\n")


def find_sweep(outputs: Outputs, name: str | None, scale: str | None) -> Path:
    """The directory of a sweep by its name, or id, among those of ``outputs``.

    Raises:
        SweepError: none, or several.
    """
    if name is None:
        raise SweepError("sweep: not given; write sweep=NAME, or a sweep's directory or table.")
    there = [path.parent for path in sorted(outputs.sweeps.glob("*/plan.json"))]
    parts = {path: path.name.rsplit("-", 2) for path in there}
    found = [
        path
        for path, (own, block, *_) in parts.items()
        if path.name == name or (own == name and scale in (None, block))
    ]
    if len(found) == 1:
        return found[0]
    known = ", ".join(path.name for path in (found or there)) or "none"
    if found:
        raise SweepError(f"sweep={name}: is {len(found)} sweeps; name one by its id: {known}.")
    raise SweepError(f"sweep={name}: none of this name in {outputs.sweeps}; known: {known}.")


def _arguments(arguments: list[str]) -> tuple[dict[str, str], str | None]:
    """Settings by key, and the one path among the arguments."""
    given, paths = {}, []
    for argument in arguments:
        key, sign, value = argument.partition("=")
        if not sign:
            paths.append(argument)
        elif key not in KEYS:
            raise ConfigError(
                f"{key}={value}: not known here.{did_you_mean(key, KEYS)} Known: {', '.join(KEYS)}."
            )
        elif not value:
            raise ConfigError(f"{key}=: is empty; give {KEYS[key]}.")
        else:
            given[key] = value
    if len(paths) > 1 or (paths and "sweep" in given):
        raise ConfigError(f"{paths[-1]}: one sweep at a time; give sweep=NAME or one path.")
    return given, paths[0] if paths else None


def _student(
    given: dict[str, str], vocab_size: int | None, seq_len: int | None
) -> tuple[float, Flops]:
    """Non-embedding parameters of the target, and what training it costs."""
    ladder = {}
    for file in sorted((conf_dir() / "student").glob("*.yaml")):
        node = yaml.safe_load(file.read_text())
        names = [n for n in Shape.__dataclass_fields__ if n != "vocab_size"]
        if all(name in node for name in names):
            own = {name: node[name] for name in names}
            ladder[file.stem] = Shape(**own, vocab_size=vocab_size or 0)
    if "student" in given:
        name = given["student"]
        if name not in ladder:
            raise ConfigError(
                f"student={name}: no such file in conf/student.{did_you_mean(name, ladder)} Known: "
                f"{', '.join(ladder)}; or give student.params=."
            )
        num_params = float(ladder[name].num_params_non_embedding)
    else:
        num_params = _number("student.params", given["student.params"])
        name = min(
            ladder, key=lambda n: abs(math.log(ladder[n].num_params_non_embedding / num_params))
        )
    shape = ladder[name]

    def flops(params: float, tokens: float) -> tuple[float, float, str]:
        if vocab_size is None or seq_len is None:
            return 6 * params * tokens, params, "6 N D: the table has no vocabulary or length"
        ratio = params / shape.num_params_non_embedding
        how = f"{name}, exact matrix products at a vocabulary of {vocab_size} and length {seq_len}"
        if abs(ratio - 1) > 1e-6:
            how += f", scaled by parameters ({ratio:.3g}x)"
        exact = shape.flops_forward_per_token(seq_len) * 3 * tokens
        return exact * ratio, shape.num_params_total * ratio, how

    return num_params, flops


def _one(runs: Any, name: str) -> int | None:
    """The value that all runs share, if they do."""
    values = runs[name].dropna().unique() if name in runs else []
    return int(values[0]) if len(values) == 1 else None


def _number(key: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError as err:
        raise ConfigError(f"{key}={text}: is not a number; write one such as 1e9.") from err
    if not (math.isfinite(value) and value > 0):
        raise ConfigError(f"{key}={text}: must be positive and finite.")
    return value
