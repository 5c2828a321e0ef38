"""The verbs. Nothing heavy is imported before a verb needs it."""

import os
import shlex
import sys
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from pdx.hydra_app import hydras_errors, hydras_own, message_of, other_sweeper, run_task

HELP = """\
pdx: sweeps over the design space of pre-training distillation

  pdx train [OVERRIDES]             one run, e.g. pdx train loss=forward_kl student=s100k
  pdx train -m sweep=NAME           a sweep from sweeps/, e.g. pdx train -m sweep=demo
  pdx train -m KEY=A,B [...]        an ad-hoc grid, e.g. pdx train -m loss=soft_ce,forward_kl
  pdx plan  -m ...                  what would run: runs, tokens, epochs, FLOPs, disk, what is done
  pdx status [-m ...]               how far a sweep is; without arguments, every sweep here
  pdx worker -m ...                 help a sweep that runs elsewhere, on the same outputs
  pdx report sweep=NAME             tables, figures, report.html
  pdx report --experiment NAME      the same of any MLflow runs; --map says what is what
  pdx fit FILE --law LAW [...]      a scaling law fitted to any csv or parquet file of runs
  pdx predict sweep=NAME student=S  loss, recipe and cost of a student that nobody trained
  pdx capture [OVERRIDES]           build the logits store ahead (else on first need, once)
  pdx verify [OVERRIDES]            prove the store of a config: digests, tokens, teacher
  pdx export RUN DIR                a run's student and tokenizer as save_pretrained writes them
  pdx ui                            MLflow's UI on the right store
  pdx axes [AXIS]                   every axis and its values
  pdx gc [--delete] [--runs]        what everything takes; delete what no run needs (--runs: single
                                    runs that no sweep needs, too)

A sweep may be narrowed to a block of its file by scale=NAME. `train` and `capture` are Hydra
applications: --cfg job, --config-dir, hydra/launcher=... work. `pdx train --help` shows the config.
"""
SWEEP_VERBS = ("plan", "report", "worker")
HYDRA_SHOWS = ("--cfg", "-c", "--info", "-i", "--help", "-h", "--hydra-help", "--version")


def main(arguments: list[str] | None = None) -> int:
    """Run one verb; return its exit status."""
    given = sys.argv[1:] if arguments is None else arguments
    if not given or given[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0
    verb, rest = given[0], given[1:]
    if verb == "--version":
        from pdx import __version__

        print(__version__)
        return 0
    verbs: dict[str, Callable[[list[str]], Any]] = {
        "train": _train,
        "capture": _capture,
        "verify": _verify,
        "export": _export,
        "fit": _fit,
        "predict": _predict,
        "ui": _ui,
        "axes": _axes,
        "gc": _gc,
        **{name: lambda rest, name=name: _sweep(name, rest) for name in SWEEP_VERBS},
        "status": _status,
        "report": _report,
    }
    if verb not in verbs:
        from pdx.build import did_you_mean

        print(
            f"pdx {verb}: unknown verb.{did_you_mean(verb, verbs)} Known: {', '.join(verbs)}.",
            file=sys.stderr,
        )
        return 2
    return _guarded(verbs[verb], rest)


def _guarded(verb: Callable[[list[str]], Any], rest: list[str]) -> int:
    """Errors that a user can mend are one paragraph, not a traceback."""
    from pdx.errors import PdxError

    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra then lets our errors through
    try:
        verb(rest)
    except PdxError as err:
        print(f"{type(err).__name__}: {err}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # `pdx axes | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        print("interrupted; the same command goes on where this one stopped", file=sys.stderr)
        return 130
    except hydras_errors() as err:
        print(f"ConfigError: {message_of(err)}", file=sys.stderr)
        return 1
    return 0


def _taken(arguments: list[str], *keys: str) -> tuple[dict[str, str], list[str]]:
    """``key=value`` arguments that are ours and not Hydra's, and the rest."""
    ours = {}
    rest = []
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key in keys and value:
            ours[key] = value
        else:
            rest.append(argument)
    return ours, rest


def _sweep(action: str, arguments: list[str]) -> None:
    """Every verb that takes a sweep: the same form, the same plan, another action."""
    ours, rest = _taken(arguments, "sweep", "scale")
    rest = [a for a in rest if a not in ("-m", "--multirun")]
    command = shlex.join(["pdx", "train", "-m", *(f"{k}={v}" for k, v in ours.items()), *rest])
    options, overrides = hydras_own(rest)
    handed = [f"hydra.sweeper.{key}={value}" for key, value in ours.items()]
    # Hydra would set these in the plain config, before the sweep's file has its say: the sweeper
    # reads them after it. Encoded, so that what is quoted or escaped is not read a second time.
    handed.append(f"hydra.sweeper.overrides=[{','.join(map(_encoded, overrides))}]")
    handed += [f"hydra.sweeper.action={action}", f"hydra.sweeper.command={_encoded(command)}"]
    run_task(_no_task, ["-m", *options, *handed])


def _encoded(text: str) -> str:
    return quote(text).replace("~", "%7E")  # which quote leaves, and Hydra reads as a deletion


def _no_task(cfg: Any) -> None:
    raise AssertionError("the sweeper launches workers, not this task")


def _train(arguments: list[str]) -> None:
    multirun = any(a in ("-m", "--multirun") for a in arguments)
    ours, _ = _taken(arguments, "sweep", "scale")
    if ours and not multirun:
        from pdx.errors import SweepError

        key, value = next(iter(ours.items()))
        raise SweepError(f"{key}={value}: is for a multirun; write pdx train -m {key}={value}.")
    shown = [a for a in arguments if a.partition("=")[0] in HYDRA_SHOWS]
    if multirun and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from pdx.errors import SweepError

        raise SweepError(
            "WORLD_SIZE: torchrun is for one run, and each process would start this sweep; "
            "run pdx without it and set env.gpus_per_run."
        )
    if multirun and shown:
        from pdx.errors import SweepError

        raise SweepError(
            f"{shown[0]}: shows one run's config; leave out -m, sweep= and scale=, or use "
            "`pdx plan -m ...`, which shows every run of a sweep."
        )
    if multirun and not other_sweeper(arguments):
        _sweep("train", arguments)
    else:
        from pdx.tasks import train_one

        run_task(train_one, arguments)


def _capture(arguments: list[str]) -> None:
    from pdx.tasks import capture_store

    run_task(capture_store, arguments)


def _verify(arguments: list[str]) -> None:
    from pdx.tasks import verify_store

    run_task(verify_store, arguments)


def _export(arguments: list[str]) -> None:
    from pdx.errors import ConfigError

    ours, rest = _taken(arguments, "env.outputs")
    if len(rest) != 2:
        raise ConfigError(
            "pdx export RUN DIR: give a run's id (or its first letters) and a folder."
        )
    from pathlib import Path

    from pdx.housekeeping import export

    print(export(_env(ours).paths, rest[0], Path(rest[1])))


def _fit(arguments: list[str]) -> None:
    from pdx.fit import main as fit

    fit(arguments)


def _predict(arguments: list[str]) -> None:
    from pdx.predict import main as predict

    predict(arguments)


def _report(arguments: list[str]) -> None:
    if not any(a.startswith("--experiment") for a in arguments):
        _sweep("report", arguments)
        return
    from pdx.report import main as report

    report(arguments)


def _status(arguments: list[str]) -> None:
    ours, rest = _taken(arguments, "env.outputs", "env.storage")
    if rest:
        _sweep("status", arguments)
        return
    from pdx.sweep.describe import status_of_all

    print(status_of_all(_env(ours)))


def _ui(arguments: list[str]) -> None:
    ours, rest = _taken(arguments, "env.outputs", "env.tracking_uri", "port")
    _refuse_rest("ui", rest, "env.outputs, env.tracking_uri, port")
    port = ours.pop("port", "5000")
    env = _env(ours)
    from pdx.tracking.connect import experiment_link

    if env.mlflow_server is not None:
        print(f"MLflow is served already: {env.mlflow_server}{experiment_link(env)}")
        return
    link = f"http://127.0.0.1:{port}{experiment_link(env)}"
    environ = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    print(f"MLflow on {env.mlflow_uri}: {link}", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--port", port]
    command += ["--backend-store-uri", env.mlflow_uri]
    command += ["--default-artifact-root", (env.paths.root.resolve() / "mlartifacts").as_uri()]
    os.execvpe(command[0], command, environ | {"MLFLOW_DISABLE_TELEMETRY": "true"})


def _axes(arguments: list[str]) -> None:
    from pdx.housekeeping import axes

    names = [a for a in arguments if not a.startswith("-")]
    _refuse_rest("axes", [a for a in arguments if a not in names[:1]], "the name of one axis")
    print(axes(*names))


def _gc(arguments: list[str]) -> None:
    from pdx.housekeeping import collect

    ours, rest = _taken(arguments, "env.outputs")
    flags = ("--delete", "--runs")
    _refuse_rest("gc", [a for a in rest if a not in flags], "--delete, --runs, env.outputs")
    print(collect(_env(ours).paths, *(flag in rest for flag in flags)))


def _refuse_rest(verb: str, rest: list[str], known: str) -> None:
    if rest:
        from pdx.errors import ConfigError

        raise ConfigError(f"pdx {verb} {' '.join(rest)}: not known here; it takes {known}.")


def _env(ours: dict[str, str]) -> Any:
    """The default env with ``env.*`` settings from the command line."""
    from pdx.env import default_env

    return default_env({key.removeprefix("env."): value for key, value in ours.items()})


if __name__ == "__main__":
    sys.exit(main())
