"""The part of the corpus that a larger model finds so much likelier than a small one."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F

from pdx.build import check
from pdx.data.chosen import Chosen
from pdx.errors import ConfigError
from pdx.files import digest
from pdx.reduce import chunk_size
from pdx.texts.blocks import Blocks

if TYPE_CHECKING:
    from pdx.config import Run
    from pdx.data import TokenSet, Windows
    from pdx.env import Env
    from pdx.frozen import FrozenTeacher
    from pdx.shared import Shared

BATCH_TOKENS = 8192


@dataclass(frozen=True, kw_only=True)
class Selected:
    """Difference sampling: the windows with the largest log p_teacher - log p_weak, in their order.

    What both models find easy and what neither can say is left out. No logits are needed to train.

    Attributes:
        keep_frac: share of the windows that is kept, rounded to whole windows of a pool.
        pool_windows: windows among which the share is taken, one pool after the other, so that
            longer trainings go on where shorter ones end. The larger, the nearer to the source.

    Source:
        MiniPLM, arXiv:2410.17215, section 2.2: documents of the whole corpus, half of them kept.
        Windows instead of documents, and pools, are ours.
    """

    keep_frac: float
    pool_windows: int

    exists: ClassVar[bool] = True
    needs_teacher: ClassVar[bool] = True
    needs_weak_teacher: ClassVar[bool] = True
    part: ClassVar[tuple[float, float] | None] = None
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        allowed = "must lie strictly between 0 and 1; use text=corpus to keep all"
        check(0 < self.keep_frac < 1, "text.keep_frac", self.keep_frac, allowed)
        kept = round(self.keep_frac * self.pool_windows)
        allowed = f"must hold windows to keep and to leave out; {self.keep_frac} of it is {kept}"
        enough = 1 <= kept < self.pool_windows
        check(enough, "text.pool_windows", self.pool_windows, allowed)

    @property
    def num_kept(self) -> int:
        """Windows that are kept of each pool."""
        return round(self.keep_frac * self.pool_windows)

    def check(self, run: "Run") -> None:
        """Refuse a comparison of a teacher with itself."""
        if run.teacher.identify(run) == run.weak_teacher.identify(run):
            raise ConfigError(
                "teacher@weak_teacher: is the teacher itself, so every difference is 0; name a "
                "smaller one, such as weak_teacher.num_layers=2."
            )

    def identify(self, run: "Run") -> dict[str, Any]:
        named = {"teacher": run.teacher.identify(run), "split": run.train.split}
        return named | {"weak_teacher": run.weak_teacher.identify(run)}

    def windows(self, run: "Run", env: "Env", token_set: "TokenSet") -> "Windows":
        """What is trained on; nothing is scored."""
        base = token_set.windows(*run.train.split.split("+"))
        name = digest(self._manifest(run, base))
        blocks = Blocks(env.paths.stores / name, self.num_kept)
        num_windows = base.num_windows // self.pool_windows * self.num_kept
        if num_windows == 0:
            raise ConfigError(
                f"text.pool_windows={self.pool_windows}: the split has {base.num_windows} windows; "
                "use smaller pools, or give more text."
            )
        return Picked(base, num_windows, blocks, name)

    def make(self, shared: "Shared", num_windows: int) -> None:
        """Score and rank as many pools as the first ``num_windows`` windows come from."""
        windows, run = shared.train_windows, shared.run
        assert isinstance(windows, Picked)
        base, num_windows = windows.base, min(num_windows, windows.num_windows)

        def start() -> Any:
            models = [shared.load_teacher(t) for t in (run.teacher, run.weak_teacher)]
            return lambda pool: self._pick(models, base, pool)

        manifest = self._manifest(run, base)
        windows.blocks.make(num_windows, manifest, "difference sampling", start)

    def forward_tokens(self, run: "Run", num_unique: int) -> float:
        """The teacher reads whole pools."""
        return num_unique / self.num_kept * self.pool_windows

    def _manifest(self, run: "Run", base: "Windows") -> dict[str, Any]:
        from pdx.config import identity

        return {
            "kind": "selection",
            "teacher_id": run.teacher_id(run.teacher),
            "weak_teacher_id": run.teacher_id(run.weak_teacher),
            "base": base.digest,
            "text": identity(self),
        }

    def _pick(self, models: "list[FrozenTeacher]", base: "Windows", pool: int) -> np.ndarray:
        """The windows of one pool that are kept, by number; of equal scores the first."""
        index = np.arange(pool * self.pool_windows, (pool + 1) * self.pool_windows)
        teacher, weak = (log_likelihoods(model, base, index) for model in models)
        order = np.argsort(weak - teacher, kind="stable")
        return np.sort(index[order[: self.num_kept]])


@torch.no_grad()
def log_likelihoods(model: "FrozenTeacher", windows: "Windows", index: np.ndarray) -> np.ndarray:
    """Log-probability of each window's targets that count, in nats, float64 [len(index)]."""
    step = max(1, BATCH_TOKENS // windows.seq_len)
    size = chunk_size(model.head.vocab_size, model.device)
    found = []
    for first in range(0, len(index), step):
        batch = windows.batch(index[first : first + step]).to(model.device)
        targets_N, hidden_ND = batch.targets_BL.reshape(-1), model.hidden(batch)
        nats_N = torch.cat(
            [
                F.cross_entropy(model.logits(h_CD).float(), y_C, reduction="none")
                for h_CD, y_C in zip(hidden_ND.split(size), targets_N.split(size), strict=True)
            ]
        )
        counted_BL = torch.where(batch.mask_BL, -nats_N.view_as(batch.mask_BL).double(), 0.0)
        found.append(counted_BL.sum(-1).cpu().numpy())
    return np.concatenate(found)


class Picked(Chosen):
    """Windows by their numbers, which ranking finds pool by pool."""

    def __init__(self, base: "Windows", num_windows: int, blocks: Blocks, name: str) -> None:
        super().__init__(base, num_windows, blocks.rows, name)
        self.blocks = blocks
