"""Text to ids in several processes: in order, flat in memory, taken up where it was killed."""

import mmap
import multiprocessing
import os
import shutil
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from pdx.data.tokenizer import Encoder

Encoded = list[tuple[np.ndarray, np.ndarray]]  # of each document: ids, and the bytes of each


class Texts:
    """Documents in one file, read by their number, from any process."""

    def __init__(self, path: Path, starts: np.ndarray) -> None:
        self.path, self.starts = path, starts
        with open(path, "rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def __reduce__(self) -> tuple[Any, ...]:
        return Texts, (self.path, self.starts)

    def __getitem__(self, document: int) -> str:
        return self._map[self.starts[document] : self.starts[document + 1]].decode()

    def close(self) -> None:
        self._map.close()


class Parts:
    """Encoded chunks of documents, each a file until all of them are in the shards.

    ``directory`` is named by all that decides its content, so that a preparation that was killed
    goes on from the chunks that it had finished.
    """

    def __init__(self, directory: Path, encoder: Encoder, texts: Texts) -> None:
        self.directory, self.encoder, self.texts = directory, encoder, texts
        directory.mkdir(exist_ok=True)

    def read(self, split: str, chunks: Sequence[Sequence[int]]) -> Iterator[Encoded]:
        """The chunks of one split, in order; a few are on their way at any time."""
        paths = [self.directory / f"{split}-{i:07d}.npz" for i in range(len(chunks))]
        missing = [i for i, path in enumerate(paths) if not path.exists()]
        workers = num_workers(len(missing))
        if workers == 1:  # the tokenizer's own threads share the work
            for path, chunk in zip(paths, chunks, strict=True):
                if not path.exists():
                    _write(path, self.encoder, self.texts, chunk)
                yield _load(path)
            return
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, context, _open, (self.encoder, self.texts)) as pool:
            todo, running = deque(missing), deque[tuple[int, Future[None]]]()
            for i, path in enumerate(paths):
                while todo and len(running) < 2 * workers:
                    j = todo.popleft()
                    running.append((j, pool.submit(_work, paths[j], chunks[j])))
                if running and running[0][0] == i:
                    running.popleft()[1].result()
                yield _load(path)

    def remove(self) -> None:
        shutil.rmtree(self.directory)


def num_workers(num_chunks: int) -> int:
    """Processes for so many chunks: one where there is little, or where none may be started."""
    if multiprocessing.current_process().daemon:
        return 1
    return max(1, min(num_chunks, len(os.sched_getaffinity(0))))


_OPENED: list[tuple[Encoder, Texts]] = []  # a worker's own


def _open(encoder: Encoder, texts: Texts) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # a core each
    _OPENED[:] = [(encoder, texts)]


def _work(path: Path, chunk: Sequence[int]) -> None:
    _write(path, *_OPENED[0], chunk)


def _write(path: Path, encoder: Encoder, texts: Texts, chunk: Sequence[int]) -> None:
    encoded = encoder.encode([texts[document] for document in chunk])
    temporary = path.with_suffix(".tmp.npz")
    np.savez(
        temporary,
        lengths=np.asarray([len(ids) for ids, _ in encoded]),
        ids=np.concatenate([ids for ids, _ in encoded]).astype(np.uint32),
        num_bytes=np.concatenate([counts for _, counts in encoded]).astype(np.uint32),
    )
    os.replace(temporary, path)


def _load(path: Path) -> Encoded:
    with np.load(path) as part:
        edges = np.cumsum(part["lengths"])[:-1]
        ids, num_bytes = part["ids"].astype(np.int64), part["num_bytes"].astype(np.int64)
    return list(zip(np.split(ids, edges), np.split(num_bytes, edges), strict=True))
