"""What was read once, of corpora, weights and git, and is handed on so that runs need not.

A sweep's driver and its first process read a corpus of gigabytes whole to name it; its runs read
the tokens that were made of it, and take the name on trust.
"""

from collections.abc import Callable
from typing import Any

_KNOWN: dict[str, Any] = {}


def once(key: str, read: Callable[[], Any]) -> Any:
    """What ``read`` gives, as JSON holds it; read at most once a process."""
    if key not in _KNOWN:
        _KNOWN[key] = read()
    return _KNOWN[key]


def known() -> dict[str, Any]:
    """All that this process has read, to be handed on."""
    return dict(_KNOWN)


def know(what: dict[str, Any]) -> None:
    """Trust what another process has read."""
    _KNOWN.update(what)
