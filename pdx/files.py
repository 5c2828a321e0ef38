"""Files that are whole or absent: digests, atomic writes, locks."""

import fcntl
import hashlib
import json
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pdx.errors import PdxError


def digest(obj: Any, length: int = 16) -> str:
    """Hex SHA-256 of ``obj`` as canonical JSON: the same on every machine and Python."""
    text = json.dumps(obj, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def digest_file(path: Path, length: int = 16) -> str:
    """Hex SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:length]


def fsync(path: Path) -> None:
    """Force a file, or a directory's list of names, to the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_bytes(path: Path, payload: bytes) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fd, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)  # mkstemp makes files that only their owner can read
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    fsync(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    write_bytes(path, text.encode())


def write_json(path: Path, obj: Any) -> None:
    """Write JSON whole or not at all; NaN is refused, for other readers cannot parse it."""
    write_text(path, json.dumps(obj, indent=1, sort_keys=True, allow_nan=False) + "\n")


def for_json(value: Any) -> Any:
    """The same with null for numbers that JSON does not have."""
    if isinstance(value, dict):
        return {str(name): for_json(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [for_json(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def read_json(path: Path) -> Any:
    """Read JSON."""
    return json.loads(path.read_text())


@contextmanager
def publish(final_dir: Path) -> Iterator[Path]:
    """Yield a temporary directory that becomes ``final_dir`` when the block succeeds.

    A killed process leaves a ``.tmp-*`` sibling and never half a ``final_dir``.
    """
    final_dir.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=final_dir.parent, prefix=f".tmp-{final_dir.name}-"))
    try:
        os.chmod(temporary, 0o755)
        yield temporary
        for path in sorted(temporary.rglob("*")):
            fsync(path)
        fsync(temporary)
        os.replace(temporary, final_dir)
        fsync(final_dir.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def locked(path: Path, wait: bool = True, say: bool = True) -> Iterator[bool]:
    """Hold an exclusive lock on ``path``; the kernel frees it when the holder dies.

    Yields whether the lock was got (always true with ``wait``); having to wait is said once.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                yield False
                return
            if say:
                print(f"waiting for another process that holds {path}", file=sys.stderr)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield True


def free_lock(path: Path) -> bool:
    """Whether nobody holds the lock ``path``, that is, whether its holder is gone."""
    with locked(path, wait=False) as got:
        return got


def require_space(directory: Path, num_bytes: int, what: str) -> None:
    """Refuse to begin what the disk cannot hold."""
    directory.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(directory).free
    if num_bytes > free:
        raise PdxError(
            f"{directory}: {what} needs {num_bytes / 2**30:.2f} GiB and {free / 2**30:.2f} GiB "
            "are free; free some space (`pdx gc` lists what no sweep needs), ask for less, or "
            "set env.outputs to another disk."
        )
