"""Who is at work on a sweep: each worker's lock and heartbeat, in the sweep's directory."""

import os
import signal
import socket
import tempfile
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pdx.files import free_lock, locked

BEAT_SECONDS = 10.0
LOST_SECONDS = 90.0  # nine beats missed: a busy file server is not a dead worker


@contextmanager
def sign_on(directory: Path) -> Iterator[str]:
    """A name for this worker, which is seen to be alive while the block lasts.

    A lock is free the moment its process dies, and is asked on the worker's own host; elsewhere
    locks may not reach, and the age of the heartbeat is asked.
    """
    worker = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:6]}"
    workers = directory / "workers"
    with locked(_lock(directory, worker)):
        beat, stop = workers / f"{worker}.beat", threading.Event()
        beat.touch()

        def keep_beating() -> None:
            # The main thread's, which must wake up for them.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
            while not stop.wait(BEAT_SECONDS):
                beat.touch()

        thread = threading.Thread(target=keep_beating, daemon=True)
        thread.start()
        try:
            yield worker
        finally:
            stop.set()
            thread.join()
            beat.unlink(missing_ok=True)


def is_alive(directory: Path, worker: str) -> bool:
    """Whether a worker is still there."""
    if worker.partition(":")[0] == socket.gethostname():
        lock = _lock(directory, worker)
        return lock.exists() and not free_lock(lock)
    try:
        beat = (directory / "workers" / f"{worker}.beat").stat().st_mtime
    except FileNotFoundError:  # it said goodbye
        return False
    return _file_server_time(directory / "workers") - beat < LOST_SECONDS


def _lock(directory: Path, worker: str) -> Path:
    return directory / "workers" / f"{worker}.lock"


def _file_server_time(directory: Path) -> float:
    """Now, by the clock that stamps the heartbeats: those of hosts differ."""
    with tempfile.NamedTemporaryFile(dir=directory, prefix=".now-") as file:
        return os.fstat(file.fileno()).st_mtime
