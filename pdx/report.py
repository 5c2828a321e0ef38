"""`pdx report --experiment NAME`: the report of any MLflow runs, not only pdx's."""

import argparse
import shlex
from pathlib import Path

from pdx.env import default_env
from pdx.errors import ConfigError
from pdx.options import listed, pairs

EXAMPLES = """\
examples:
  pdx report --experiment pdx
  pdx report --experiment ladder --map N=params,D=tokens,loss=eval_loss,recipe=method,seed=seed \\
      --control baseline --tracking-uri http://127.0.0.1:5000 --out report
  pdx report --experiment hpo --map N=params,D=tokens,loss=eval_loss --objectives eval_loss,hours
"""


def main(arguments: list[str]) -> None:
    """Read the runs, write the report, say where it is.

    Raises:
        PdxError: an option, the tracking store or its runs; one sentence says which.
    """
    options = parser().parse_args(arguments)
    mapping = pairs("--map", options.map, "NAME=COLUMN")
    objectives = listed(options.objectives)
    if len(objectives) not in (0, 2):
        raise ConfigError(
            f"--objectives {options.objectives}: a front takes two metrics; write A,B."
        )
    from pdx.analysis.questions.results import results_of  # pyright: ignore[reportMissingImports]
    from pdx.analysis.report import write_results  # pyright: ignore[reportMissingImports]
    from pdx.analysis.runs.foreign import (  # pyright: ignore[reportMissingImports]
        Reading,
        curves_read,
    )
    from pdx.tracking.read import attach_to, runs_of

    said = {"outputs": options.outputs, "tracking_uri": options.tracking_uri}
    env = default_env({key: value for key, value in said.items() if value})
    results = results_of(
        runs_of(env, options.experiment, curves_read(mapping)),
        Reading(mapping=mapping, control=options.control, objectives=objectives),
        options.experiment,
        shlex.join(["pdx", "report", *arguments]),
        options.resamples,
    )
    files = write_results(results, options.out or Path("report") / options.experiment)
    if options.attach:
        attach_to(env, options.attach, files.all)
    print(f"report: {files.html}")


def parser() -> argparse.ArgumentParser:
    """Every option of `pdx report --experiment`."""
    own = argparse.ArgumentParser(
        prog="pdx report",
        description="A report of any MLflow runs.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    own.add_argument("--experiment", required=True, help="MLflow's name of it")
    own.add_argument(
        "--map",
        default="",
        metavar="NAME=COLUMN,...",
        help="N, D and loss (and C, recipe, seed, lr, teacher, teacher_loss, teacher_N, C_infer, "
        "C_train_teacher; curve, curve_tokens: metrics of every step): the param, metric or tag "
        "that holds it; pdx's own need none",
    )
    own.add_argument("--control", help="value of recipe that is the control, such as baseline")
    own.add_argument(
        "--objectives", default="", metavar="A,B", help="two metrics for a Pareto front; -A: higher"
    )
    own.add_argument("--tracking-uri", help="default: the SQLite file of the outputs")
    own.add_argument("--outputs", help="default: outputs, or PDX_OUTPUTS")
    own.add_argument("--out", type=Path, help="folder to write to (default: report/NAME)")
    own.add_argument("--attach", metavar="RUN", help="id of an MLflow run to attach it to")
    own.add_argument("--resamples", type=int, default=200, help="of the bootstrap (default: 200)")
    return own
