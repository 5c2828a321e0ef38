"""Text that the teacher wrote: sequence-level distillation."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from pdx.build import check
from pdx.data.chosen import Chosen
from pdx.draws import draw
from pdx.errors import ConfigError
from pdx.files import digest
from pdx.texts.blocks import Blocks

if TYPE_CHECKING:
    from pdx.config import Run
    from pdx.data import TokenSet, Windows
    from pdx.env import Env
    from pdx.frozen import FrozenTeacher
    from pdx.shared import Shared

BLOCK_TOKENS = 65536
BATCH_TOKENS = 16384


@dataclass(frozen=True, kw_only=True)
class TeacherSamples:
    """Windows that begin as the corpus's and go on as the teacher would: no logits are needed.

    Window w has the first ``num_prompt_tokens`` tokens of the split's window w, and what the
    teacher says after them, drawn token by token. It is written once for all students and seeds.
    Prompts count in the loss as all tokens do. With ``loss=none`` this is sequence-level
    distillation; with another loss the teacher speaks of its own text.

    Attributes:
        num_prompt_tokens: of the corpus, at the beginning of each window.
        temperature: 1 draws from the teacher as it is.
        seed: of the draws, which depend on it and on the place alone.

    Source:
        Kim, Rush 2016, arXiv:1606.07947, section 3.2, whose sequences are the output of a beam for
        a given source. Draws after a prompt are ours: a language model has no source, and the
        likeliest text is a poor one.
    """

    num_prompt_tokens: int
    temperature: float
    seed: int

    exists: ClassVar[bool] = True
    needs_teacher: ClassVar[bool] = True
    needs_weak_teacher: ClassVar[bool] = False
    part: ClassVar[tuple[float, float] | None] = None
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        num = self.num_prompt_tokens
        check(num >= 1, "text.num_prompt_tokens", num, "must be at least 1")
        check(self.temperature > 0, "text.temperature", self.temperature, "must be > 0")

    def check(self, run: "Run") -> None:
        """Refuse what cannot be written."""
        num, length = self.num_prompt_tokens, run.data.seq_len
        allowed = f"must be at most data.seq_len={length}, so that something is left to say"
        check(num <= length, "text.num_prompt_tokens", num, allowed)
        if getattr(run.data, "document_mask", False):
            raise ConfigError(
                "text=teacher_samples: what a teacher writes has no documents to keep apart; set "
                "data.document_mask=false."
            )
        if run.loss.needs_teacher and run.routing.domains:
            raise ConfigError(
                f"routing.domains={[*run.routing.domains]}: what a teacher writes is of no domain; "
                "use another routing, or text=corpus."
            )

    def identify(self, run: "Run") -> dict[str, Any]:
        return {"teacher": run.teacher.identify(run), "split": run.train.split}

    def windows(self, run: "Run", env: "Env", token_set: "TokenSet") -> "Windows":
        """What is trained on; nothing is written."""
        base = token_set.windows(*run.train.split.split("+"))
        name = digest(self._manifest(run, base))
        return Written(base, Blocks(env.paths.stores / name, self._size(base)), name)

    def make(self, shared: "Shared", num_windows: int) -> None:
        """Let the teacher write the first ``num_windows`` windows, as far as they are missing."""
        windows = shared.train_windows
        assert isinstance(windows, Written)
        base, num_windows = windows.base, min(num_windows, windows.num_windows)

        def start() -> Any:
            teacher = shared.load_teacher(shared.run.teacher)
            return lambda block: self._write(teacher, base, block)

        manifest = self._manifest(shared.run, base)
        windows.blocks.make(num_windows, manifest, "teacher writes", start)

    def forward_tokens(self, run: "Run", num_unique: int) -> float:
        """A cached pass over each window, at the price of a whole one."""
        return float(num_unique)

    def _size(self, base: "Windows") -> int:
        return max(1, BLOCK_TOKENS // base.seq_len)

    def _manifest(self, run: "Run", base: "Windows") -> dict[str, Any]:
        from pdx.config import identity

        return {
            "kind": "samples",
            "teacher_id": run.teacher_id(run.teacher),
            "base": base.digest,
            "text": identity(self),
        }

    def _write(self, teacher: "FrozenTeacher", base: "Windows", block: int) -> np.ndarray:
        """One block of windows, uint32 [size, L + 1]; batches begin at its start."""
        size = self._size(base)
        stop = min((block + 1) * size, base.num_windows)
        step = max(1, BATCH_TOKENS // base.seq_len)
        parts = []
        for first in range(block * size, stop, step):
            index_B = np.arange(first, min(first + step, stop))
            prompts_BP = torch.from_numpy(base.ids(index_B)[:, : self.num_prompt_tokens])
            offset_B = torch.from_numpy(index_B * (base.seq_len + 1))
            parts.append(self.go_on(teacher, prompts_BP, base.seq_len + 1, offset_B).numpy())
        return np.concatenate(parts).astype(np.uint32)

    @torch.no_grad()
    def go_on(
        self, teacher: "FrozenTeacher", prompts_BP: Tensor, length: int, offset_B: Tensor
    ) -> Tensor:
        """Prompts, and what the teacher draws after them: int64 [B, length].

        Args:
            offset_B: the place of each window's first token, on which draws depend.
        """
        new_BP, cache = prompts_BP.to(teacher.device), None
        offset_B, said = offset_B.to(teacher.device), [new_BP]
        with torch.autocast(teacher.device.type, enabled=False):
            for place in range(new_BP.shape[1], length):
                output = teacher.model.base_model(
                    input_ids=new_BP, past_key_values=cache, use_cache=True
                )
                cache = output.past_key_values
                logits_BV = teacher.logits(output.last_hidden_state[:, -1]).float()
                new_BP = draw(logits_BV / self.temperature, offset_B + place, 1, self.seed).long()
                said.append(new_BP)
        return torch.cat(said, 1).cpu()


class Written(Chosen):
    """Windows of the teacher's own text, numbered as those whose beginnings they have."""

    def __init__(self, base: "Windows", blocks: Blocks, name: str) -> None:
        super().__init__(base, base.num_windows, lambda index_B: index_B, name)
        self.blocks = blocks

    def ids(self, index_B: np.ndarray) -> np.ndarray:
        return self.blocks.rows(self._base(index_B)).astype(np.int64)
