"""The same numbers for every run: held-out loss, bits per byte, and how far from the teacher."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pdx.bins import Reliability
from pdx.build import check
from pdx.files import publish, read_json, require_space, write_json
from pdx.largest import argmax
from pdx.models import Head, head_of, hidden_states
from pdx.ranks import Ranks
from pdx.reduce import cached_size

if TYPE_CHECKING:
    from pdx.data import Batch, Windows
    from pdx.frozen import FrozenTeacher
    from pdx.shared import Shared

EVAL_BATCH_TOKENS = 8192


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How much text the figures rest on: always the first windows of val and of test.

    Attributes:
        num_tokens: of val, and of test, at the end of a run.
        num_tokens_during_training: of val, along the way.
        num_tokens_teacher: of val, on which student and teacher are compared: KL(teacher ||
            student) at temperature 1 against the dense teacher, top-1 agreement, calibration, and
            the teacher's own loss; 0 for none.
        num_calibration_bins: equal-width bins of the student's top-1 confidence.
    """

    num_tokens: int
    num_tokens_during_training: int
    num_tokens_teacher: int
    num_calibration_bins: int

    reads_domains: ClassVar[bool] = False
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        for key in ("num_tokens", "num_tokens_during_training", "num_calibration_bins"):
            check(getattr(self, key) >= 1, f"eval.{key}", getattr(self, key), "must be at least 1")
        check(
            self.num_tokens_teacher >= 0,
            "eval.num_tokens_teacher",
            self.num_tokens_teacher,
            "must be >= 0",
        )

    def check(self, run: Any) -> None:
        """Refuse a run that cannot be evaluated so."""

    def ensure(self, env: Any) -> None:
        """Refuse, before anything is trained, a machine that cannot."""

    def identify(self) -> dict[str, Any]:
        """What the numbers depend on beside the fields, in their place."""
        return {}

    def more(
        self, model: Any, shared: "Shared", reference: "Reference | None", ranks: Ranks
    ) -> dict[str, float]:
        """Metrics beside the common ones, by their whole names."""
        return {}


@torch.no_grad()
def passes(
    model: Any, windows: "Windows", count: int, ranks: Ranks
) -> Iterator[tuple[int, "Batch", Tensor]]:
    """This rank's batches of the first ``count`` windows, with hidden states laid flat.

    Each comes with its first window. Ranks whose turn finds no batch left run one for nothing:
    where the model is sharded, a pass needs all of them.
    """
    size = max(1, EVAL_BATCH_TOKENS // windows.seq_len)
    for first in range(0, count, size * ranks.world_size):
        mine = first + size * ranks.rank
        start = mine if mine < count else 0
        batch = windows.batch(np.arange(start, min(start + size, count))).to(ranks.device)
        hidden_BLD = hidden_states(model, batch.tokens_BL, batch.document_BL)
        if mine < count:
            yield start, batch, hidden_BLD.reshape(-1, hidden_BLD.shape[-1])


def chunks_of_logits(hidden_ND: Tensor, head: Head) -> Iterator[tuple[slice, Tensor]]:
    """Logits [C, V] in float32, each chunk with the positions that it is of."""
    size = cached_size(head.vocab_size, hidden_ND.device)
    for start in range(0, len(hidden_ND), size):
        part = slice(start, start + size)
        yield part, head(hidden_ND[part]).float()


@torch.no_grad()
def held_out_loss(
    model: Any, windows: "Windows", num_tokens: int, ranks: Ranks
) -> dict[str, float]:
    """Mean loss in nats per token, and in bits per byte of the text that those tokens spell."""
    model.eval()
    count = windows.num_windows_in(num_tokens)
    nats, valid = torch.zeros((), device=ranks.device, dtype=torch.float64), 0
    head = head_of(model)
    for _, batch, hidden_ND in passes(model, windows, count, ranks):
        targets_N, mask_N = batch.targets_BL.reshape(-1), batch.mask_BL.reshape(-1)
        for part, logits_CV in chunks_of_logits(hidden_ND, head):
            loss_C = F.cross_entropy(logits_CV, targets_N[part], reduction="none")
            nats += loss_C[mask_N[part]].sum().double()
        valid += int(mask_N.sum())
    model.train()
    ranks.add(nats)
    valid = ranks.total(valid)
    num_bytes = int(windows.window_bytes(np.arange(count)).sum())
    return {
        "loss": float(nats) / valid,
        "bits_per_byte": float(nats) / math.log(2) / num_bytes,
    }


class Reference:
    """A dense teacher's word on a fixed part of val, kept as hidden states and a head.

    Exact at a fraction of the logits' size: D numbers a position instead of V.
    """

    def __init__(self, directory: Path) -> None:
        self.manifest = read_json(directory / "manifest.json")
        shape = (
            self.manifest["num_windows"],
            self.manifest["seq_len"],
            self.manifest["hidden_size"],
        )
        self.hidden_BLD = np.memmap(directory / "hidden.bin", dtype="<f4", mode="r", shape=shape)
        self._head = directory / "head.safetensors"

    def head(self, device: torch.device) -> Head:
        """The teacher's head, cut to the tokenizer's vocabulary."""
        from safetensors.torch import load_file

        tensors = load_file(self._head)
        return Head(
            weight_VD=tensors["weight"].to(device),
            bias_V=tensors["bias"].to(device) if "bias" in tensors else None,
            softcap=self.manifest["softcap"],
            scale=self.manifest["scale"],
        )

    def logits(self, start: int, stop: int, head: Head) -> Iterator[tuple[slice, Tensor]]:
        """The teacher's logits on these windows, as ``chunks_of_logits`` has them."""
        hidden_BLD = torch.from_numpy(np.array(self.hidden_BLD[start:stop]))
        hidden_ND = hidden_BLD.reshape(-1, hidden_BLD.shape[-1]).to(head.weight_VD.device)
        return chunks_of_logits(hidden_ND, head)

    @staticmethod
    @torch.no_grad()
    def build(
        directory: Path, teacher: "FrozenTeacher", windows: "Windows", num_tokens: int
    ) -> None:
        """One pass of the teacher, kept for every run that compares with it."""
        from safetensors.torch import save_file

        count, head = windows.num_windows_in(num_tokens), teacher.head
        width = head.weight_VD.shape[1]
        require_space(
            directory.parent, 4 * count * windows.seq_len * width, "the evaluation's teacher pass"
        )
        loss, valid = 0.0, 0
        with publish(directory) as temporary:
            with open(temporary / "hidden.bin", "wb") as file:
                ranks = Ranks.alone(teacher.device)
                for _, batch, hidden_ND in passes(teacher.model, windows, count, ranks):
                    file.write(hidden_ND.float().cpu().numpy().astype("<f4").tobytes())
                    targets_N, mask_N = batch.targets_BL.reshape(-1), batch.mask_BL.reshape(-1)
                    for part, logits_CV in chunks_of_logits(hidden_ND, head):
                        loss_C = F.cross_entropy(logits_CV, targets_N[part], reduction="none")
                        loss += float(loss_C[mask_N[part]].sum())
                    valid += int(mask_N.sum())
            tensors = {"weight": head.weight_VD.float().cpu().contiguous()}
            if head.bias_V is not None:
                tensors["bias"] = head.bias_V.float().cpu().contiguous()
            save_file(tensors, temporary / "head.safetensors")
            write_json(
                temporary / "manifest.json",
                {
                    "num_windows": count,
                    "seq_len": windows.seq_len,
                    "hidden_size": width,
                    "softcap": head.softcap,
                    "scale": head.scale,
                    "teacher_loss": loss / valid,
                },
            )


@torch.no_grad()
def compare(
    model: Any, reference: Reference, windows: "Windows", num_bins: int, ranks: Ranks
) -> dict[str, float]:
    """The student beside the dense teacher, at temperature 1, on the reference's windows.

    Returns:
        teacher_kl: KL(teacher || student), nats per token. top1_agreement: share of positions
        where both put the same token first. ece: expected calibration error of the student's top-1
        confidence, equal-width bins. teacher_loss: the teacher's own, nats per token.
    """
    model.eval()
    device = ranks.device
    student_head, teacher_head = head_of(model), reference.head(device)
    kl, agree, valid = torch.zeros((), dtype=torch.float64, device=device), 0, 0
    curve = Reliability(num_bins, device)
    for start, batch, hidden_ND in passes(model, windows, reference.manifest["num_windows"], ranks):
        stop = start + batch.tokens_BL.shape[0]
        targets_N, mask_N = batch.targets_BL.reshape(-1), batch.mask_BL.reshape(-1)
        student = chunks_of_logits(hidden_ND, student_head)
        teacher = reference.logits(start, stop, teacher_head)
        for (part, student_CV), (_, teacher_CV) in zip(student, teacher, strict=True):
            mask_C = mask_N[part]
            student_CV, teacher_CV = student_CV.log_softmax(-1), teacher_CV.log_softmax(-1)
            kl_C = torch.einsum("cv,cv->c", teacher_CV.exp(), teacher_CV - student_CV)
            kl += kl_C[mask_C].double().sum()
            top_C = argmax(student_CV)[mask_C]
            agree += int((top_C == argmax(teacher_CV)[mask_C]).sum())
            confidence_C = student_CV.amax(-1)[mask_C].exp().double()
            curve.add(confidence_C, top_C == targets_N[part][mask_C])
        valid += int(mask_N.sum())
    model.train()
    ranks.add(kl, curve.bins.sums)
    agree, valid = ranks.total(agree), ranks.total(valid)
    return {
        "teacher_kl": float(kl) / valid,
        "top1_agreement": agree / valid,
        "ece": curve.error(),
        "teacher_loss": reference.manifest["teacher_loss"],
    }
