"""Teachers: trained here or pretrained, loaded frozen, and named by what they are."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

from pdx.build import check
from pdx.config import Run
from pdx.data import tokens
from pdx.data.tokenizer import SAVED
from pdx.errors import ConfigError
from pdx.evaluate import Evaluation
from pdx.files import digest, digest_file
from pdx.hiddens.none import NoHidden
from pdx.known import once
from pdx.losses.none import NoDistillation
from pdx.models import Llama
from pdx.optim import AdamW
from pdx.remote import fetch, is_url
from pdx.schedule import WSD
from pdx.store.kinds import NoStore
from pdx.texts.corpus import Corpus
from pdx.train import Train

# A teacher's own evaluation is fixed, so that a run's eval settings do not make another teacher.
EVALUATION = Evaluation(
    num_tokens=131072,
    num_tokens_during_training=16384,
    num_tokens_teacher=0,
    num_calibration_bins=15,
)
WEIGHTS = (*SAVED, ".safetensors")
DATA_SPLITS = {"disjoint": "teacher", "same": "student", "superset": "student+teacher"}


@dataclass(frozen=True, kw_only=True)
class NoTeacher:
    """No teacher at all."""

    exists: ClassVar[bool] = False
    is_same: ClassVar[bool] = False
    version: ClassVar[int] = 1

    def identify(self, run: Run) -> dict[str, Any]:
        return {"teacher": None}


@dataclass(frozen=True, kw_only=True)
class Same:
    """The run's own teacher, as ``eval_teacher``."""

    exists: ClassVar[bool] = False
    is_same: ClassVar[bool] = True
    version: ClassVar[int] = 1


@dataclass(frozen=True, kw_only=True)
class TrainedHere:
    """What the teachers share that are trained here once, by the same loop as any student.

    Attributes:
        data_split: ``disjoint`` trains it on tokens that no student sees, ``same`` on the
            students' own, ``superset`` on both.
        max_epochs: how often it may read its tokens; repeating is asked for, never silent.
        peak_lr ... decay_frac: of AdamW and a WSD schedule.
        precision: as in ``pdx.train.Train``.
    """

    data_split: str
    num_tokens: int
    batch_size: int
    max_epochs: float
    peak_lr: float
    weight_decay: float
    warmup_frac: float
    decay_frac: float
    precision: str
    seed: int

    exists: ClassVar[bool] = True
    is_same: ClassVar[bool] = False
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check(
            self.data_split in DATA_SPLITS,
            "teacher.data_split",
            self.data_split,
            f"must be one of {', '.join(DATA_SPLITS)}",
        )

    def architecture(self, run: Run) -> Any:
        """What it is, among the students of ``run``: a component as of that axis."""
        raise NotImplementedError

    def run(self, run: Run) -> Run:
        """The training that makes it: a run like any other, on ``run``'s data."""
        split = DATA_SPLITS[self.data_split]
        if split == "teacher" and getattr(run.data, "teacher_frac", 1.0) == 0.0:
            raise ConfigError(
                "teacher.data_split=disjoint: data.teacher_frac=0.0 leaves it no tokens; set "
                "data.teacher_frac above 0, or teacher.data_split=same."
            )
        step_tokens = self.batch_size * run.data.seq_len
        check(
            self.num_tokens >= step_tokens,
            "teacher.num_tokens",
            self.num_tokens,
            f"must hold one step of teacher.batch_size * data.seq_len = {step_tokens} tokens; "
            f"set at least {step_tokens}",
        )
        return Run(
            data=run.data,
            text=Corpus(),
            teacher=NoTeacher(),
            weak_teacher=NoTeacher(),
            eval_teacher=NoTeacher(),
            student=self.architecture(run),
            signal=run.signal,
            temperature=run.temperature,
            store=NoStore(),
            loss=NoDistillation(),
            hidden=NoHidden(),
            mix=run.mix,
            routing=run.routing,
            schedule=WSD(
                warmup_frac=self.warmup_frac,
                decay_frac=self.decay_frac,
                decay_shape="sqrt",
                final_frac=0.0,
            ),
            optim=AdamW(
                peak_lr=self.peak_lr,
                lr_reference_width=None,
                beta1=0.9,
                beta2=0.95,
                eps=1e-8,
                weight_decay=self.weight_decay,
                clip_norm=1.0,
            ),
            train=Train(
                num_tokens=self.num_tokens,
                batch_size=self.batch_size,
                micro_batch_size=self.batch_size,
                max_epochs=self.max_epochs,
                split=split,
                num_evals=4,
                seed=self.seed,
                precision=self.precision,
                compile=False,
            ),
            eval=EVALUATION,
        )

    def identify(self, run: Run) -> dict[str, Any]:
        return {"teacher": "trained", "run_id": self.run(run).run_id}


@dataclass(frozen=True, kw_only=True)
class Trained(TrainedHere):
    """A transformer trained here once, of any size.

    Attributes:
        hidden_size ... init_std: as in ``pdx.models.Llama``; all others as in ``TrainedHere``.
    """

    hidden_size: int
    ffn_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    tie_embeddings: bool
    rope_theta: float
    init_std: float

    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            self.model  # noqa: B018  its own checks
        except ConfigError as err:
            raise ConfigError(str(err).replace("student.", "teacher.")) from err

    @property
    def model(self) -> Llama:
        """Its architecture."""
        return Llama(**{f.name: getattr(self, f.name) for f in fields(Llama)})

    def architecture(self, run: Run) -> Llama:
        return self.model


@dataclass(frozen=True, kw_only=True)
class Twin(TrainedHere):
    """A teacher of the student's own architecture, trained here once: regularisation or knowledge?

    What a student gains from its twin is not knowledge that only a larger model can have. Fields
    as in ``TrainedHere``.

    Source:
        Self-distillation as a control: Furlanello et al. 2018, arXiv:1805.04770.
    """

    version: ClassVar[int] = 1

    def architecture(self, run: Run) -> Any:
        return run.student


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """Any causal language model that transformers loads from safetensors, without remote code.

    It may have read the validation text: held-out losses of its students are then too good.

    Attributes:
        path: a directory or URL (``s3://...``) as ``save_pretrained`` writes it, or a hub id.
        revision: of a hub id: a commit, so that the teacher cannot change.
        dtype: ``auto`` (as saved), ``float32`` or ``bfloat16``.
        padding: a head with more rows than the tokenizer has tokens is refused, or with ``mask``
            its surplus rows are cut off, which puts them at minus infinity.
    """

    path: str
    revision: str | None
    dtype: str
    padding: str

    exists: ClassVar[bool] = True
    is_same: ClassVar[bool] = False
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check(
            self.dtype in ("auto", "float32", "bfloat16"),
            "teacher.dtype",
            self.dtype,
            "must be auto, float32 or bfloat16",
        )
        check(
            self.padding in ("refuse", "mask"),
            "teacher.padding",
            self.padding,
            "must be refuse or mask",
        )

    @property
    def directory(self) -> Path | None:
        """Where it lies on this machine, fetched there from a URL; None for a hub id."""
        if is_url(self.path):
            return fetch("teacher.path", f"{self.path.rstrip('/')}/*", WEIGHTS)
        return Path(self.path) if Path(self.path).is_dir() else None

    def identify(self, run: Run) -> dict[str, Any]:
        named = {"teacher": "pretrained", "dtype": self.dtype, "data": tokens.identity(run.data)}
        if self.directory is not None:
            return named | {"weights": weights_digest(self.directory)}
        if Path(self.path).is_absolute() or self.path.startswith((".", "~")):
            raise ConfigError(
                f"teacher.path={self.path}: no such directory; name one that save_pretrained "
                "wrote, or a hub id such as org/name."
            )
        return named | {"path": self.path, "revision": self.revision}


def weights_digest(directory: Path) -> str:
    """Digest of a saved model's config and safetensors.

    Raises:
        ConfigError: no config or no safetensors in it.
    """
    files = sorted(directory.glob("*.safetensors"))
    if not files or not (directory / "config.json").is_file():
        raise ConfigError(
            f"teacher.path={directory}: holds no config.json with *.safetensors; save it with "
            "save_pretrained(..., safe_serialization=True). Pickled weights are never loaded."
        )
    stamps = [
        [str(f), f.stat().st_size, f.stat().st_mtime_ns]
        for f in [*files, directory / "config.json"]
    ]
    names = [Path(name) for name, _, _ in stamps]
    return once(digest(stamps), lambda: digest([[n.name, digest_file(n, 64)] for n in names]))
