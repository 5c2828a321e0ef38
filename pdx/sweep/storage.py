"""Where a sweep's study is kept: a journal file in its directory, or a database server."""

import fcntl
import os
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, BinaryIO, ParamSpec, TypeVar

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend, JournalFileBackend
from optuna.storages.journal._file import BaseJournalFileLock

from pdx.errors import SweepError

P = ParamSpec("P")
R = TypeVar("R")
PATIENCE_SECONDS = 120.0  # a database server that restarts is back by then

optuna.logging.set_verbosity(optuna.logging.WARNING)


class KernelLock(BaseJournalFileLock):
    """A lock of the kernel's on the journal: free at once when its holder is killed.

    Optuna's own are files, which a killed process leaves behind for half a minute. Whoever gets it
    cuts off a line that was never finished: Optuna would append to that, and never read on.
    """

    def __init__(self, journal: Path) -> None:
        self._journal, self._file = journal, -1

    def acquire(self) -> bool:
        """Wait for the lock."""
        self._file = os.open(self._journal.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o644)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        with open(self._journal, "rb+") as journal:
            journal.truncate(_end_of_last_line(journal))
        return True

    def release(self) -> None:
        """Let others in."""
        os.close(self._file)


def _end_of_last_line(file: BinaryIO) -> int:
    start = file.seek(0, os.SEEK_END)
    while start:
        start, stop = max(0, start - 4096), start
        file.seek(start)
        found = file.read(stop - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
    return 0


def open_storage(url: str | None, directory: Path) -> Any:
    """The storage of a sweep's study.

    Raises:
        SweepError: a database that does not answer, or whose driver is not installed.
    """
    if url is None:
        directory.mkdir(parents=True, exist_ok=True)
        journal = directory / "journal.log"
        backend: BaseJournalBackend = JournalFileBackend(str(journal), KernelLock(journal))
        return JournalStorage(backend)
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

    try:
        return optuna.storages.RDBStorage(url, engine_kwargs={"pool_pre_ping": True})
    except (ImportError, ModuleNotFoundError, NoSuchModuleError) as err:
        raise SweepError(
            f"env.storage={url}: its driver is not installed ({err}); run pip install "
            "'pdx[postgres]', or use env.storage=null (a file in the sweep's directory)."
        ) from err
    except (ArgumentError, ValueError) as err:  # the latter of a port that is no number
        raise SweepError(
            f"env.storage={url}: is no database URL; write "
            "postgresql+psycopg://USER@HOST/NAME, or null."
        ) from err
    except SQLAlchemyError as err:
        said = str(err).splitlines()[0]
        raise SweepError(
            f"env.storage={url}: does not answer ({said}); start the server, correct the URL, or "
            "use env.storage=null (a file in the sweep's directory)."
        ) from err


def patient(method: Callable[P, R]) -> Callable[P, R]:
    """Try again while a database server is away, as when it restarts."""

    @wraps(method)
    def trying(*args: P.args, **kwargs: P.kwargs) -> R:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return method(*args, **kwargs)
            except Exception as err:
                if time.monotonic() > deadline or not _is_away(err):
                    raise
                time.sleep(0.5)

    return trying


def _is_away(err: BaseException) -> bool:
    from sqlalchemy.exc import DBAPIError

    cause = err.__cause__ or err
    return isinstance(cause, DBAPIError) and (
        cause.connection_invalidated or type(cause).__name__ == "OperationalError"
    )
