"""The verbs. Nothing heavy is imported before a verb needs it."""

import os
import shlex
import sys
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

HELP = """\
pdx: sweeps over the design space of pre-training distillation

  pdx train [OVERRIDES]             one run, e.g. pdx train loss=forward_kl student=s100k
  pdx train -m sweep=NAME           a sweep from sweeps/, e.g. pdx train -m sweep=demo
  pdx train -m KEY=A,B [...]        an ad-hoc grid, e.g. pdx train -m loss=soft_ce,forward_kl
  pdx plan  -m ...                  what would run: runs, tokens, epochs, FLOPs, disk, what is done
  pdx status -m ...                 how far a sweep is
  pdx report sweep=NAME             tables, figures, report.html
  pdx capture [OVERRIDES]           build the logits store ahead (else on first need, once)
  pdx verify [OVERRIDES]            prove the store of a config: digests, tokens, teacher
  pdx export RUN DIR                a run's student and tokenizer as save_pretrained writes them
  pdx ui                            MLflow's UI on the right store
  pdx axes                          every axis and its values
  pdx gc [--delete]                 what stores, teachers and checkpoints take; what no sweep needs

A sweep may be narrowed to a block of its file by scale=NAME. `train` and `capture` are Hydra
applications: --cfg job, --config-dir, hydra/launcher=... work. `pdx train --help` shows the config.
"""
SWEEP_VERBS = ("plan", "status", "report")
HYDRA_SHOWS = ("--cfg", "-c", "--info", "-i", "--help", "-h", "--hydra-help", "--version")
HYDRA_VALUED = (
    "--config-dir",
    "-cd",
    "--config-path",
    "-cp",
    "--config-name",
    "-cn",
    "--cfg",
    "-c",
)
HYDRA_VALUED += ("--package", "-p", "--experimental-rerun")


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
        "ui": _ui,
        "axes": _axes,
        "gc": _gc,
        **{name: lambda rest, name=name: _sweep(name, rest) for name in SWEEP_VERBS},
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
    except Exception as err:
        if message := _of_hydra(err):
            print(f"ConfigError: {message}", file=sys.stderr)
            return 1
        raise
    return 0


def _of_hydra(err: Exception) -> str | None:
    """The message of an error in the command line that Hydra or OmegaConf found."""
    from hydra.errors import HydraException, MissingConfigException, OverrideParseException
    from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

    from pdx.build import did_you_mean

    inner = err.__cause__
    if isinstance(err, MissingConfigException) and err.missing_cfg_file and err.options:
        axis, _, value = err.missing_cfg_file.rpartition("/")
        return (
            f"{axis}={value}: no such value.{did_you_mean(value, err.options)} "
            f"Known: {', '.join(err.options)}; `pdx axes` says what each is."
        )
    if isinstance(err, OverrideParseException):
        from pdx.sweep.definition import grammar_error

        return grammar_error(err)
    if isinstance(inner, (ConfigAttributeError, ConfigKeyError)) and inner.parent_node is not None:
        known = [k for k in map(str, inner.parent_node) if k != "hydra" and k[0] != "_"]
        return (
            f"{inner.full_key}: unknown key.{did_you_mean(str(inner.key), known)} "
            f"Known: {', '.join(sorted(known))}."
        )
    if isinstance(err, (HydraException, OmegaConfBaseException)):
        return " ".join(f"{err} {inner or ''}".split())
    return None


def _hydra(task: Callable[[Any], Any], arguments: list[str]) -> None:
    """Run ``task`` as a Hydra application over pdx's own configs."""
    import hydra

    from hydra_plugins.pdx_sweeper import register
    from pdx.paths import conf_dir

    register()
    sys.argv = ["pdx", *_options_first(arguments)]
    hydra.main(config_path=str(conf_dir()), config_name="config", version_base="1.3")(task)()


def _options_first(arguments: list[str]) -> list[str]:
    """Hydra's parser wants overrides side by side; a user writes them as they come to mind."""
    options, overrides = [], []
    rest = iter(arguments)
    for argument in rest:
        if not argument.startswith("-"):
            overrides.append(argument)
            continue
        options.append(argument)
        if argument in HYDRA_VALUED:
            options += [value for value in [next(rest, None)] if value is not None]
    return [*options, *overrides]


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
    flags = [a for a in rest if a in ("-m", "--multirun")]
    rest = [a for a in rest if a not in flags]
    command = shlex.join(["pdx", "train", "-m", *(f"{k}={v}" for k, v in ours.items()), *rest])
    handed = [f"hydra.sweeper.{key}={value}" for key, value in ours.items()]
    # Encoded, so that what the user quoted or escaped is not read a second time.
    handed += [f"hydra.sweeper.action={action}", f"hydra.sweeper.command={quote(command)}"]
    _hydra(_no_task, ["-m", *rest, *handed])


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
    if multirun and shown:
        from pdx.errors import SweepError

        raise SweepError(
            f"{shown[0]}: shows one run's config; leave out -m, sweep= and scale=, or use "
            "`pdx plan -m ...`, which shows every run of a sweep."
        )
    if multirun and not _other_sweeper(arguments):
        _sweep("train", arguments)
    else:
        _hydra(train_one, arguments)


def _other_sweeper(arguments: list[str]) -> bool:
    """Hydra's own sweepers work too: each job is then one ``pdx train``."""
    return any(a.startswith("hydra/sweeper=") and a != "hydra/sweeper=pdx" for a in arguments)


def train_one(cfg: Any) -> float:
    """One run: Hydra's task; returns what a sweeper minimises."""
    from pdx.config import run_of

    run, env = run_of(cfg)
    from pdx.execute import execute, use_threads
    from pdx.tracking import RunLog, log_teacher

    use_threads(None)
    log = RunLog(env, run.run_id, "run", _choices())
    folder = env.paths.runs / run.run_id
    try:
        result = execute(run, env, log.observe)
    except BaseException as err:
        log.fail(f"{type(err).__name__}: {err}")
        raise
    log.finish(result, folder)
    if result["facts"]["teacher_id"]:
        log_teacher(env, result["facts"]["teacher_id"])
    metrics = result["metrics"]
    print(f"{run.run_id} {result['status']} {result['reason'] or ''}")
    for key in sorted(metrics):
        print(f"  {key:24} {metrics[key]:.4f}")
    print(f"folder: {folder}")
    return metrics["val/loss"]


def _choices() -> dict[str, Any]:
    """What the command line set: a single run's params in MLflow."""
    from hydra.core.hydra_config import HydraConfig

    pairs = (o.partition("=") for o in HydraConfig.get().overrides.task)
    return {key.lstrip("+~"): value for key, _, value in pairs}


def _capture(arguments: list[str]) -> None:
    _hydra(capture_store, arguments)


def capture_store(cfg: Any) -> None:
    """Build the store of a config's teacher and data: everything that its run would read."""
    from pdx.config import run_of

    run, env = run_of(cfg)
    _refuse_unstored(run)
    from pdx.execute import use_threads
    from pdx.prepare import Shared

    use_threads(None)
    shared = Shared.of(run, env)
    shared.ensure_store(run.num_windows)
    store = shared.open_store()
    print(f"store: {store.directory}")
    print(f"teacher's own loss on what it holds: {-store.mean_target_logprob:.4f} nats per token")


def _verify(arguments: list[str]) -> None:
    _hydra(verify_store, arguments)


def verify_store(cfg: Any) -> None:
    """Read a config's store whole, and compare a sample of it with its teacher."""
    from pdx.config import run_of
    from pdx.execute import use_threads
    from pdx.prepare import Shared

    run, env = run_of(cfg)
    _refuse_unstored(run)
    use_threads(None)
    print(Shared.of(run, env).verify_store())


def _refuse_unstored(run: Any) -> None:
    from pdx.errors import ConfigError

    if not run.is_stored:
        raise ConfigError(
            "store/signal/loss: this run reads no store; choose a loss with a teacher, a "
            "truncating signal such as signal=topk, and store=topk."
        )


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


def _ui(arguments: list[str]) -> None:
    ours, rest = _taken(arguments, "env.outputs", "env.tracking_uri", "port")
    _refuse_rest("ui", rest, "env.outputs, env.tracking_uri, port")
    port = ours.pop("port", "5000")
    env = _env(ours)
    from pdx.tracking import experiment_link

    link = f"http://127.0.0.1:{port}{experiment_link(env)}"
    environ = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    print(f"MLflow on {env.mlflow_uri}: {link}", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--port", port]
    command += ["--backend-store-uri", env.mlflow_uri]
    command += ["--default-artifact-root", (env.paths.root.resolve() / "mlartifacts").as_uri()]
    os.execvpe(command[0], command, environ | {"MLFLOW_DISABLE_TELEMETRY": "true"})


def _axes(arguments: list[str]) -> None:
    from pdx.housekeeping import axes

    _refuse_rest("axes", arguments, "nothing")
    print(axes())


def _gc(arguments: list[str]) -> None:
    from pdx.housekeeping import collect

    ours, rest = _taken(arguments, "env.outputs")
    delete = "--delete" in rest
    _refuse_rest("gc", [a for a in rest if a != "--delete"], "--delete, env.outputs")
    print(collect(_env(ours).paths, delete))


def _refuse_rest(verb: str, rest: list[str], known: str) -> None:
    if rest:
        from pdx.errors import ConfigError

        raise ConfigError(f"pdx {verb} {' '.join(rest)}: not known here; it takes {known}.")


def _env(ours: dict[str, str]) -> Any:
    """The default env with ``env.*`` settings from the command line."""
    from omegaconf import OmegaConf

    from pdx.build import build
    from pdx.paths import conf_dir

    node = OmegaConf.load(conf_dir() / "env" / "local.yaml")
    for key, value in ours.items():
        OmegaConf.update(node, key.removeprefix("env."), value)
    return build(node, "env")  # type: ignore[arg-type]


if __name__ == "__main__":
    sys.exit(main())
