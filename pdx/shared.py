"""What a run shares with others, made by whoever needs it first: tokens, teacher, store."""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from pdx.config import Run
from pdx.data import TokenSet, Windows, prepare
from pdx.data.domains import labels_of, refuse_unknown
from pdx.device import device_of
from pdx.env import Env
from pdx.errors import ConfigError, DataError
from pdx.evaluate import Reference
from pdx.files import digest, locked
from pdx.frozen import FrozenTeacher, freeze, load_model, load_pretrained
from pdx.store.format import FORMAT_VERSION, Layout
from pdx.store.mirror import pull, push
from pdx.store.ranks import NAME as RANKS
from pdx.store.ranks import ids_by_frequency, write_ranks
from pdx.store.reader import Store
from pdx.store.recorder import ensure_recorded
from pdx.store.verify import Verdict, verify
from pdx.store.writer import capture
from pdx.teacher import TrainedHere

CAPTURE_BATCH_TOKENS = 8192


@dataclass(frozen=True)
class Shared:
    """One run's view of what it shares with others; nothing is made before it is asked for."""

    run: Run
    env: Env
    device: torch.device
    token_set: TokenSet

    @classmethod
    def of(cls, run: Run, env: Env, device: torch.device | None = None) -> "Shared":
        """Prepare the tokens, and refuse a run that they cannot feed."""
        shared = cls(run, env, device or device_of(env), prepare(run.data, env.paths))
        if run.reads_domains:
            labels = shared.token_set.labels = labels_of(run.data, shared.token_set)
            refuse_unknown(run.routing.domains, labels.names)
        shared.check_epochs()
        top_k = getattr(run.signal, "top_k", 1) if run.loss.needs_teacher else 1
        if top_k > shared.token_set.vocab_size:
            raise DataError(
                f"signal.top_k={top_k}: the vocabulary has {shared.token_set.vocab_size} tokens; "
                "use fewer."
            )
        return shared

    @property
    def train_windows(self) -> Windows:
        """What the run trains on."""
        return self.run.text.windows(self.run, self.env, self.token_set)

    @property
    def num_unique_tokens(self) -> int:
        """Distinct tokens that the run reads."""
        return self.run.num_unique_windows(self.train_windows) * self.token_set.seq_len

    @property
    def num_epochs(self) -> float:
        """How often it reads its split."""
        return self.run.num_epochs(self.train_windows)

    def check_epochs(self) -> None:
        """Repeating data is asked for, never silent."""
        if self.num_epochs > self.run.train.max_epochs:
            split = self.run.train.split
            whose = "teacher" if split != "student" else "train"
            raise DataError(
                f"{whose}.num_tokens={self.run.train.num_tokens}: is {self.num_epochs:.2f} epochs "
                f"of the {self.train_windows.num_tokens:,} tokens of split {split!r}, and "
                f"{whose}.max_epochs={self.run.train.max_epochs}; train on fewer tokens, give more "
                f"text, or ask for the repeats with {whose}.max_epochs={self.num_epochs:.2f}."
            )

    # ---- teacher -----------------------------------------------------------------------------

    def teacher_dir(self, teacher: Any) -> Path:
        """Where a trained teacher's weights are."""
        return self.env.paths.model(self.run.teacher_id(teacher))

    def ensure_teacher(self, teacher: Any) -> None:
        """Train a teacher that is to be trained here, once."""
        if not isinstance(teacher, TrainedHere) or self.teacher_dir(teacher).is_dir():
            return
        from pdx.execute import train_teacher

        print(f"teacher: training {self.run.teacher_id(teacher)}", file=sys.stderr)
        train_teacher(teacher.run(self.run), self.env)

    def load_teacher(self, teacher: Any) -> FrozenTeacher:
        """A teacher, frozen, on this run's device."""
        if isinstance(teacher, TrainedHere):
            self.ensure_teacher(teacher)
            model = load_model(self.teacher_dir(teacher), "float32")
            return freeze(model, self.token_set, self.device, "refuse")
        return load_pretrained(teacher, self.token_set, self.device)

    # ---- store -------------------------------------------------------------------------------

    @property
    def store_windows(self) -> Windows:
        """What the store holds rows of: of a recording all that was recorded."""
        return self.recorded.windows(self.run, self.env, self.token_set)

    @property
    def recorded(self) -> Any:
        """The text that the store holds rows of."""
        if not self.run.is_recorded:
            return self.run.text
        start, end = self.run.store.recorded
        return replace(self.run.text, start_frac=start, end_frac=end)

    @property
    def layout(self) -> Layout:
        """How this run's store lies on the disk."""
        windows, store = self.store_windows, self.run.store
        return Layout(
            num_windows=windows.num_windows,
            windows_per_shard=max(1, store.shard_tokens // windows.seq_len),
            seq_len=windows.seq_len,
            temperatures=tuple(store.temperatures),
            hidden_layers=tuple(store.hidden_layers),
        )

    @property
    def store_manifest(self) -> dict[str, Any]:
        """Everything that a store's rows depend on: its name, and what is checked at read."""
        layout, data, vocab_size = self.layout, self.run.data, self.token_set.vocab_size
        return {
            "format_version": FORMAT_VERSION,
            "teacher_id": self.run.teacher_id(self.run.teacher),
            "tokenizer_digest": self.token_set.tokenizer_digest,
            "windows_digest": self.store_windows.digest,
            "num_windows": layout.num_windows,
            "windows_per_shard": layout.windows_per_shard,
            "seq_len": layout.seq_len,
            "stride": getattr(data, "stride", None) or layout.seq_len,
            "document_mask": self.store_windows.document_mask,
            "vocab_size": vocab_size,
            "kind": self.run.store.kind,
            "kind_version": self.run.store.version,
            "temperatures": list(layout.temperatures),
            **self.run.store.parameters(vocab_size),
            **({"recorded": True} if self.run.is_recorded else {}),
        }

    @property
    def store_dir(self) -> Path:
        return self.env.paths.stores / digest(self.store_manifest)

    def ensure_store(self, num_windows: int) -> None:
        """Capture what is missing of the first ``num_windows`` windows, once.

        Processes that ask at once share the work, shard by shard.
        """
        directory, layout, kind = self.store_dir, self.layout, self.run.store
        windows, vocab_size = self.store_windows, self.token_set.vocab_size
        if self.run.is_recorded:
            num_windows = layout.num_windows
        with locked(directory.parent / f"{directory.name}.lock"):
            if kind.ranked and not (directory / RANKS).exists():
                write_ranks(directory, ids_by_frequency(windows.base, vocab_size))
            Store.write_manifest(directory, self.store_manifest)
        if not layout.missing(directory, num_windows):
            return
        store, size = Store(directory, kind, layout, vocab_size), kind.bytes_per_token(vocab_size)
        url = self.env.shared_stores
        if url is not None:
            pull(store, url, num_windows)
        if not layout.missing(directory, num_windows):
            return
        if self.run.is_recorded:
            ensure_recorded(self, store, *self.recorded.sequences(self.run))
        else:
            teacher = self.load_teacher(self.run.teacher)
            kind.check_layers(teacher.model.config.num_hidden_layers)
            batch_windows = max(1, CAPTURE_BATCH_TOKENS // layout.seq_len)
            capture(
                store, windows, teacher, num_windows, batch_windows, size, self.compiles_capture
            )
        if url is not None:
            push(store, url, num_windows)

    @property
    def compiles_capture(self) -> bool:
        """Whether what a store keeps of the logits is compiled."""
        asked = self.env.compile_capture
        return self.device.type == "cuda" if asked is None else asked

    def open_store(self) -> Store:
        """This run's store, captured if need be."""
        self.ensure_store(self.run.num_windows)
        return self._opened()

    def _opened(self) -> Store:
        recorded, num_windows = self.run.is_recorded, self.run.num_windows
        first = 0
        if recorded:  # the run's own part of what was recorded
            first = self.run.text.sequences(self.run)[0] - self.recorded.sequences(self.run)[0]
            num_windows = self.layout.num_windows
        kind, manifest = self.run.store, self.store_manifest
        store = Store.open(self.store_dir, kind, self.layout, manifest, num_windows)
        store.first_window = first
        return store

    def verify_store(self) -> Verdict:
        """Prove what this run would read: see ``pdx.store.verify``."""
        if self.run.is_recorded:
            raise ConfigError(
                f"store.recorded={self.run.store.recorded}: what a teacher said while it was being "
                "trained cannot be asked of the finished one; its checksums and tokens are checked "
                "at every read."
            )
        store, num_windows = self._opened(), self.run.num_windows
        teacher = self.load_teacher(self.run.teacher)
        return verify(store, self.train_windows, teacher, num_windows)

    # ---- reference ---------------------------------------------------------------------------

    def reference(self) -> Reference | None:
        """The evaluation's teacher on its fixed part of val; None without one."""
        teacher, num_tokens = self.run.evaluation_teacher, self.run.eval.num_tokens_teacher
        if not teacher.exists or num_tokens == 0:
            return None
        val = self.token_set.windows("val")
        name = digest(
            [val.digest, val.num_windows_in(num_tokens), getattr(teacher, "padding", None)]
        )
        directory = self.env.paths.teachers / self.run.teacher_id(teacher) / f"reference-{name}"
        if not (directory / "manifest.json").exists():
            with locked(directory.parent / f"{directory.name}.lock"):
                if not (directory / "manifest.json").exists():
                    Reference.build(directory, self.load_teacher(teacher), val, num_tokens)
        return Reference(directory)

    def ensure(self, num_windows: int) -> None:
        """Make everything that this run, and others like it, will ask for."""
        if self.run.is_stored:  # whole shards are captured
            num_windows = self.layout.whole_shards(num_windows)
        self.run.text.make(self, num_windows)
        if self.run.is_stored:
            self.ensure_store(num_windows)
        elif self.run.loss.needs_teacher:
            self.ensure_teacher(self.run.teacher)
        self.reference()
