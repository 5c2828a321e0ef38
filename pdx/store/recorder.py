"""Recording: a store made of what a teacher says while it is itself being trained."""

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from pdx.files import locked, write_bytes
from pdx.store.columns import columns_of
from pdx.store.reader import Store, tokens_digest
from pdx.store.writer import blocks_of, write_shard

if TYPE_CHECKING:
    from pdx.feed import MicroBatch
    from pdx.shared import Shared

Hear = Callable[[int, int, Tensor], None]
Blocks = list[tuple[bytes, int]]  # of each window, and the digest of its tokens


class Recorder:
    """What a training's logits become on the way to their own gradient: no forward pass is added.

    Each micro-batch is a file until the training is over, so that one that was killed records anew
    only what it trains anew. A window is numbered by its place in the training.

    Args:
        first, stop: sequences of the training that are recorded, whole micro-batches of it.
        compiled: as ``env.compile_capture``.
    """

    def __init__(self, store: Store, first: int, stop: int, compiled: bool = False) -> None:
        self.store, self.first, self.stop, self.compiled = store, first, stop, compiled
        self.parts = store.directory / "parts"

    def hear(self, sequence: int, batch: "MicroBatch") -> Hear | None:
        """What listens to one micro-batch that begins at ``sequence``, chunk by chunk."""
        if not self.first <= sequence < self.stop:
            return None
        length = batch.tokens_BL.shape[1]
        begin = (sequence - self.first) * length
        targets_N, chunks = batch.targets_BL.reshape(-1), []

        def heard(start: int, stop: int, logits_CV: Tensor) -> None:
            offset_C = torch.arange(begin + start, begin + stop, device=logits_CV.device)
            chunk = (logits_CV.float(), targets_N[start:stop], offset_C)
            columns = columns_of(self.store, *chunk, self.compiled)
            chunks.append({name: column.cpu().numpy() for name, column in columns.items()})
            if stop == len(targets_N):
                self._keep(sequence, batch, chunks)

        return heard

    def _keep(self, sequence: int, batch: "MicroBatch", chunks: list[dict]) -> None:
        shape = batch.tokens_BL.shape
        columns = {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}
        columns = {
            name: column.reshape(*shape, *column.shape[1:]) for name, column in columns.items()
        }
        ids = torch.cat([batch.tokens_BL, batch.targets_BL[:, -1:]], 1).cpu().numpy()
        blocks, digests = blocks_of(self.store, columns), [tokens_digest(t) for t in ids]
        lengths = np.array([len(block) for block in blocks], "<u4").tobytes()
        told = np.array(digests, "<u8").tobytes()
        write_bytes(self._part(sequence, len(blocks)), b"".join([lengths, told, *blocks]))

    def _part(self, sequence: int, count: int) -> Path:
        return self.parts / f"{sequence:012d}-{count}.part"

    def _found(self) -> list[tuple[Path, int]]:
        """The parts that are there, in order, with how many windows each holds."""
        return [(p, int(p.stem.partition("-")[2])) for p in sorted(self.parts.glob("*.part"))]

    @property
    def is_complete(self) -> bool:
        """Whether all that is to be recorded is there."""
        at = self.first
        for path, count in self._found():
            if int(path.stem.partition("-")[0]) != at:
                return False
            at += count
        return at == self.stop

    def _blocks(self) -> Iterator[tuple[bytes, int]]:
        for path, count in self._found():
            raw = path.read_bytes()
            digests = np.frombuffer(raw, "<u8", count, 4 * count).tolist()
            at = 12 * count
            for size, told in zip(np.frombuffer(raw, "<u4", count).tolist(), digests, strict=True):
                yield raw[at : at + size], told
                at += size

    def assemble(self) -> None:
        """Parts become shards; then there are no parts."""
        blocks, layout = self._blocks(), self.store.layout
        for shard in range(layout.num_shards):
            start, stop = layout.bounds(shard)
            taken = [next(blocks) for _ in range(start, stop)]
            write_shard(self.store, shard, [b for b, _ in taken], [told for _, told in taken])
        shutil.rmtree(self.parts)


def ensure_recorded(shared: "Shared", store: Store, first: int, stop: int) -> None:
    """Train the teacher and record it; a teacher that is finished already is trained once more.

    Raises:
        Diverged: the teacher did.
    """
    from pdx.execute import train_teacher

    run, env = shared.run, shared.env
    directory, layout = store.directory, store.layout
    with locked(directory.parent / f"{directory.name}.lock"):
        if not layout.missing(directory, layout.num_windows):
            return
        recorder = Recorder(store, first, stop, shared.compiles_capture)
        training = run.teacher.run(run)
        while not recorder.is_complete:
            again = None
            if env.paths.result(training.run_id).exists():
                again = directory / "teacher"
                if (again / "result.json").exists():  # and its parts are gone
                    shutil.rmtree(again)
                print(
                    f"teacher: {training.run_id} was trained before it was to be recorded; it is "
                    "trained once more for what it says on the way",
                    file=sys.stderr,
                )
            train_teacher(training, env, recorder, again)
        recorder.assemble()
        shutil.rmtree(directory / "teacher", ignore_errors=True)
