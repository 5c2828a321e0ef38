"""`pdx fit`: a scaling law fitted to anybody's table of runs. The fitting stands in analysis."""

import argparse
import json
import runpy
import shlex
import sys
from pathlib import Path
from typing import Any

from pdx.errors import ConfigError
from pdx.options import listed, number, numbers, pairs

DESCRIPTION = """\
Fit a scaling law to a csv or parquet file with one row per run.

laws (--law):
  power              A / x^alpha                          x: N, C or D, whichever is there
  power_offset       E + A / x^alpha
  chinchilla         E + A / N^alpha + B / D^beta
  chinchilla_tied    the same with beta = alpha
  chinchilla_gamma   E + (A / N^alpha + B / D^beta)^gamma
  kaplan             ((Nc / N)^(aN / aD) + Dc / D)^aD
  kaplan_offset      E + the same
  overtraining       E + a N^c + b 6^(c/2) (M N)^c        M = D / N
  loss_to_error      eps - k exp(-gamma L)                loss: the error, L: the loss
  data_constrained   chinchilla in effective N and D      also U, unique tokens
  supervised_gamma   chinchilla_gamma, N non-embedding
  distillation       Busbridge et al. 2025, equation 8    also L_T, the teacher's loss
  FILE.py:FUNCTION   def law(N, D, *, E=1.5, A=400.0, alpha=0.3): return E + A / N**alpha

columns: N parameters, D tokens, C training FLOPs, loss in nats per token; C = 6 N D where absent.
"""
EXAMPLES = """\
examples:
  pdx fit runs.csv --law chinchilla --filter "loss < 3.42" --bootstrap 4000 --json fit.json
  pdx fit runs.csv --map N=params,D=tokens,loss=val --hold-out "C > 1e21" --figure fit.png
  pdx fit runs.csv --law power_offset --map x=params,loss=val --loss mse_log
  pdx fit curves.csv --run run_id --approaches --bootstrap 1000 --figure approaches.png
  pdx fit runs.csv --compare chinchilla_tied,chinchilla_gamma,kaplan --compute 1e21,1e22
"""


def main(arguments: list[str]) -> None:
    """Fit, print, and write what was asked for.

    Raises:
        PdxError: an option, the file or its points; one sentence says which and what to do.
    """
    options = parser().parse_args(arguments)
    for target in (options.json, options.figure):
        if target is not None and not Path(target).resolve().parent.is_dir():
            raise ConfigError(f"{target}: its folder does not exist; make it first.")
    from pdx.analysis.scaling.ask import answer  # pyright: ignore[reportMissingImports]
    from pdx.analysis.tables.fit import summary  # pyright: ignore[reportMissingImports]

    found = answer(_ask(options))
    if options.json == "-":
        json.dump(found.to_json(), sys.stdout, indent=1)
        print()
    elif not options.quiet:
        print(summary(found))
    for warning in found.fit.warnings if options.quiet or options.json == "-" else ():
        print(f"warning: {warning}", file=sys.stderr)
    command = shlex.join(["pdx", "fit", *arguments])
    if options.json not in (None, "-"):
        from pdx.files import write_text

        raw = {**found.to_json(), "command": command}
        write_text(Path(options.json), json.dumps(raw, indent=1, allow_nan=False) + "\n")
    if options.figure is not None and options.approaches:
        from pdx.analysis.figures.approaches import (  # pyright: ignore[reportMissingImports]
            draw_approaches,
        )

        draw_approaches(found, Path(options.figure), options.level)
    elif options.figure is not None:
        from pdx.analysis.figures.fit import draw_fit  # pyright: ignore[reportMissingImports]

        draw_fit(found, Path(options.figure))


def parser() -> argparse.ArgumentParser:
    """Every option of `pdx fit`."""
    own = argparse.ArgumentParser(
        prog="pdx fit",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    own.add_argument("points", type=Path, help="csv, tsv or parquet file, a row per run")
    data = own.add_argument_group("data")
    data.add_argument(
        "--map", default="", metavar="NAME=COLUMN,...", help="what the columns are in the file"
    )
    data.add_argument(
        "--filter", default="", metavar="CONDITION", help='rows to read, e.g. "loss < 3.4"'
    )
    data.add_argument(
        "--hold-out", default="", metavar="CONDITION", help='rows to test on, e.g. "C > 1e21"'
    )
    data.add_argument(
        "--weights", default="", metavar="COLUMN", help="weight of each point (default: 1)"
    )
    data.add_argument(
        "--run",
        default="",
        metavar="COLUMN",
        help="which run a row is a checkpoint of: runs are resampled, not rows",
    )
    law = own.add_argument_group("law")
    law.add_argument("--law", default="chinchilla", help="default: chinchilla")
    law.add_argument("--fix", default="", metavar="NAME=VALUE,...", help="parameters not fitted")
    law.add_argument("--tie", default="", metavar="NAME=NAME,...", help="e.g. beta=alpha")
    law.add_argument(
        "--supervised", type=Path, metavar="FIT.json", help="distillation: students untaught"
    )
    how = own.add_argument_group("objective")
    how.add_argument(
        "--loss",
        default="huber",
        choices=["huber", "lad", "mse_log", "mse"],
        help="of residuals of log loss, except mse (default: huber)",
    )
    how.add_argument("--delta", type=float, help="corner of huber (default: 1e-3)")
    how.add_argument(
        "--asymmetry",
        type=float,
        default=0.5,
        help="share of the weight of predictions too high; near 1 fits the lower envelope",
    )
    doubt = own.add_argument_group("uncertainty and validation")
    doubt.add_argument(
        "--bootstrap", type=int, default=0, metavar="NUM", help="resamples, e.g. 4000 (default: 0)"
    )
    doubt.add_argument("--level", type=float, default=0.95, help="of intervals (default: 0.95)")
    doubt.add_argument("--folds", type=int, default=10, help="0 for none (default: 10)")
    doubt.add_argument("--compare", default="", metavar="LAW,...", help="other laws; or: all")
    doubt.add_argument("--seed", type=int, default=0, help="of resamples, folds and starts")
    ask = own.add_argument_group("questions")
    ask.add_argument(
        "--compute", default="", metavar="FLOPS,...", help="best N and D for these budgets, C = 6ND"
    )
    ask.add_argument(
        "--at",
        action="append",
        default=[],
        metavar="NAME=VALUE,...",
        help="predict the loss here, e.g. N=7e9,D=1.4e11; may be given again",
    )
    ask.add_argument(
        "--approaches",
        action="store_true",
        help="compute-optimal size by envelope, isoFLOP and surface side by side",
    )
    out = own.add_argument_group("output")
    out.add_argument("--json", metavar="FILE", help="everything, to repeat and to doubt; - prints")
    out.add_argument("--figure", metavar="FILE", help=".png, .pdf or .svg")
    out.add_argument("--quiet", action="store_true", help="print warnings only")
    return own


def _ask(options: argparse.Namespace) -> Any:
    from pdx.analysis.fitting.fitted import Fit  # pyright: ignore[reportMissingImports]
    from pdx.analysis.fitting.objectives import Objective  # pyright: ignore[reportMissingImports]
    from pdx.analysis.fitting.supervised import (  # pyright: ignore[reportMissingImports]
        supervised_by,
    )
    from pdx.analysis.laws import law_named, laws  # pyright: ignore[reportMissingImports]
    from pdx.analysis.scaling.ask import Ask  # pyright: ignore[reportMissingImports]
    from pdx.analysis.scaling.points import Request  # pyright: ignore[reportMissingImports]

    if options.delta is not None and options.loss != "huber":
        raise ConfigError(f"--delta {options.delta:g}: is for --loss huber, not {options.loss}.")
    delta = 1e-3 if options.delta is None else options.delta
    _check(delta > 0, f"--delta {delta:g}: must be positive.")
    _check(0 < options.asymmetry < 1, f"--asymmetry {options.asymmetry:g}: must be within 0 and 1.")
    _check(0 < options.level < 1, f"--level {options.level:g}: must be within 0 and 1.")
    _check(
        options.bootstrap == 0 or options.bootstrap >= 20,
        f"--bootstrap {options.bootstrap}: too few for an interval; 0, or 20 and more.",
    )
    _check(options.folds != 1 and options.folds >= 0, f"--folds {options.folds}: 0, or 2 and more.")
    named = _law(options.law)
    if options.supervised is not None:
        try:
            found = Fit.from_json(json.loads(options.supervised.read_text()))
        except (OSError, ValueError, KeyError, TypeError) as err:
            raise ConfigError(
                f"--supervised {options.supervised}: no fit's JSON ({err}); give a file "
                "that `pdx fit --json` wrote."
            ) from err
        named = supervised_by(named, found)
    compared = laws() if options.compare == "all" else listed(options.compare)
    others = [law_named(name) for name in dict.fromkeys(compared)]
    return Ask(
        path=options.points,
        request=Request(
            mapping=pairs("--map", options.map, "NAME=COLUMN"),
            keep=options.filter,
            hold_out=options.hold_out,
            weights=options.weights,
            run=options.run,
        ),
        laws=[named, *(law for law in others if law.name != named.name)],
        objective=Objective(kind=options.loss, delta=delta, asymmetry=options.asymmetry),
        fixed=numbers("--fix", options.fix),
        tied=pairs("--tie", options.tie),
        num_resamples=options.bootstrap,
        level=options.level,
        flops=[number("--compute", text) for text in listed(options.compute)],
        targets=[numbers("--at", text) for text in options.at],
        num_folds=options.folds,
        with_approaches=options.approaches,
        seed=options.seed,
    )


def _law(name: str) -> Any:
    from pdx.analysis.laws import law_named  # pyright: ignore[reportMissingImports]

    path, _, function = name.rpartition(":")
    if not path.endswith(".py"):
        return law_named(name)
    from pdx.analysis.laws.user import user_law  # pyright: ignore[reportMissingImports]

    if not Path(path).is_file():
        raise ConfigError(f"--law {name}: there is no file {path}; write FILE.py:FUNCTION.")
    found = runpy.run_path(path).get(function)
    if not callable(found):
        raise ConfigError(
            f"--law {name}: {path} has no function {function!r}; name one that it defines."
        )
    try:
        return user_law(found)
    except TypeError as err:
        raise ConfigError(f"--law {name}: {err}") from err


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)
