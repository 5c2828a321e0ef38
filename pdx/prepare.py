"""What a list of runs asks of this machine: refused before anything is made, then made once."""

from collections.abc import Iterable
from typing import Any

from pdx.config import run_of_resolved
from pdx.files import digest
from pdx.memory import check_memory
from pdx.shared import Shared


def check_evaluations(configs: Iterable[dict[str, Any]]) -> None:
    """Refuse a machine that cannot evaluate a list of runs; each evaluation is asked once.

    Raises:
        ConfigError: as the evaluation says.
    """
    for config in {digest(c["eval"]): c for c in configs}.values():
        run, env = run_of_resolved(config)
        run.eval.ensure(env)


def ensure_all(configs: list[dict[str, Any]]) -> None:
    """Make what a list of runs shares: each teacher and store once, as far as any run reads.

    Raises:
        ConfigError: this machine cannot hold or evaluate one of them; said before anything is made.
    """
    check_evaluations(configs)
    todo: dict[str, tuple[Shared, int]] = {}
    for config in configs:
        run, env = run_of_resolved(config)
        check_memory(run, env)
        shared = Shared.of(run, env)
        parts: list[Any] = [shared.token_set.digest, run.evaluation_teacher.identify(run)]
        parts.append([run.eval.num_tokens_teacher])
        if run.text.exists:
            parts.append(run.identity["text"])
        if run.loss.needs_teacher:
            parts.append(run.teacher.identify(run))
            parts.append(
                [str(shared.store_dir), run.store.hidden_layers] if run.is_stored else None
            )
        key = digest(parts)
        _, most = todo.get(key, (shared, 0))
        todo[key] = (shared, max(most, run.num_windows))
    for shared, num_windows in todo.values():
        shared.ensure(num_windows)
