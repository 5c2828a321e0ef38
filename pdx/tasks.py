"""What a verb does with one composed config: train it, build its store, prove its store.

Heavy imports come after the config is checked: an error in it should not wait for torch.
"""

import os
from typing import Any

from pdx.hydra_app import choices


def train_one(cfg: Any) -> float:
    """One run: Hydra's task; returns what a sweeper minimises."""
    from pdx.world import dismiss, follow, of_torchrun

    if not of_torchrun():
        return _train_one(cfg)
    if os.environ["RANK"] != "0":  # rank 0 says what to do, and speaks
        follow()
        return float("nan")
    value = _train_one(cfg)
    dismiss()  # where it failed, torchrun ends the others
    return value


def _train_one(cfg: Any) -> float:
    from pdx.config import run_of

    run, env = run_of(cfg)
    from pdx.checkpoint import Paused
    from pdx.device import device_of, use_threads
    from pdx.execute import execute
    from pdx.sweep.interrupt import save_first
    from pdx.tracking.run import RunLog, log_teacher

    device_of(env)  # refused before anything is written
    use_threads(None)
    log = RunLog(env, run.run_id, "run", choices())
    folder = env.paths.runs / run.run_id
    try:
        with save_first() as must_end:
            result = execute(run, env, log.observe, must_end=must_end)
    except (Paused, KeyboardInterrupt) as err:
        log.end("paused", str(err) or "interrupted", "KILLED")
        raise KeyboardInterrupt from err
    except BaseException as err:
        log.end("failed", f"{type(err).__name__}: {err}", "FAILED")
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


def capture_store(cfg: Any) -> None:
    """Build the store of a config's teacher and data: everything that its run would read."""
    from pdx.config import run_of

    run, env = run_of(cfg)
    _refuse_unstored(run)
    from pdx.device import use_threads
    from pdx.shared import Shared

    use_threads(None)
    store = Shared.of(run, env).open_store()
    print(f"store: {store.directory}")
    print(f"teacher's own loss on what it holds: {-store.mean_target_logprob:.4f} nats per token")


def verify_store(cfg: Any) -> None:
    """Read a config's store whole, and compare a sample of it with its teacher."""
    from pdx.config import run_of

    run, env = run_of(cfg)
    _refuse_unstored(run)
    from pdx.device import use_threads
    from pdx.shared import Shared

    use_threads(None)
    print(Shared.of(run, env).verify_store())


def _refuse_unstored(run: Any) -> None:
    from pdx.errors import ConfigError

    if not run.is_stored:
        raise ConfigError(
            "store/signal/loss: this run reads no store; choose a loss with a teacher, a "
            "truncating signal such as signal=topk, and store=topk."
        )
