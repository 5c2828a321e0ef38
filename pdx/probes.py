"""What a mean loss hides: loss by entropy, the reliability curve, copying from context, pass@k."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pdx.bins import Bins, Reliability
from pdx.build import check
from pdx.data import Batch
from pdx.data.domains import metric_name
from pdx.evaluate import Evaluation, Reference, chunks_of_logits, passes
from pdx.largest import argmax
from pdx.models import head_of
from pdx.ranks import Ranks

if TYPE_CHECKING:
    from pdx.data import Windows
    from pdx.shared import Shared


@dataclass(frozen=True, kw_only=True)
class FullEvaluation(Evaluation):
    """The common numbers, and where distillation is reported to help or hurt beside them.

    By the evaluation's teacher, on the windows where student and teacher are compared (nothing
    without one):

        val/loss_entropy_1 ... _n       loss where the teacher is surest ... least sure: n bins of
                                        equal count; so val/teacher_kl_entropy_i
        val/entropy_1 ... _n            the teacher's mean entropy there
        val/reliability_share_01 ...    share of positions whose top-1 confidence is in each of
        val/reliability_confidence_01   num_calibration_bins bins of equal width, the mean of it
        val/reliability_accuracy_01     there, and how often it is right; empty bins are left out

    By the student alone:

        val/loss_domain_code ...        loss by the domain of what is to be said (``data.domains``),
        val/tokens_domain_code ...      and its tokens, in the windows of val/loss
        probe/copy_loss, copy_accuracy  on a random text said a second time in one window;
        probe/fresh_loss                on it when it is said first
        probe/copy_pass_at_k            the last answer_tokens tokens of that, in k draws;
        probe/text_pass_at_k            the same of windows of val

    One answer is right and draws are at temperature 1, so a draw is right with the answer's
    probability p, and pass@k = 1 - (1 - p)^k exactly: nothing is drawn and there is no noise.

    Attributes:
        num_entropy_bins: of equal count, over the positions that are compared.
        num_probe_windows: of random text, and of val's first, for the probes; 0 for none.
        answer_tokens: that must all be right.
        pass_at: the k of pass@k.
        probe_seed: of the random text.
        All others as in ``pdx.evaluate.Evaluation``.

    Units:
        nats per token; shares.

    Source:
        arXiv:2509.01649 (gains at high entropy, pass@k up, in-context copying down); Guo et al.
        2017, arXiv:1706.04599 (reliability); Chen et al. 2021, arXiv:2107.03374 (pass@k), whose
        estimator from draws has ours as its mean. The probes themselves are ours.
    """

    num_entropy_bins: int
    num_probe_windows: int
    answer_tokens: int
    pass_at: list[int]
    probe_seed: int

    reads_domains: ClassVar[bool] = True
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("num_entropy_bins", "answer_tokens"):
            check(getattr(self, key) >= 1, f"eval.{key}", getattr(self, key), "must be at least 1")
        num = self.num_probe_windows
        check(num >= 0, "eval.num_probe_windows", num, "must be >= 0")
        allowed = "must be whole numbers from 1, each once, such as [1, 16]"
        distinct = len({*self.pass_at}) == len(self.pass_at)
        check(distinct and all(k >= 1 for k in self.pass_at), "eval.pass_at", self.pass_at, allowed)

    def check(self, run: Any) -> None:
        """Refuse an answer for which a window has no room beside its question."""
        num, length = self.answer_tokens, run.data.seq_len
        allowed = f"must be less than half of data.seq_len={length}, of which a copy takes a half"
        check(2 * num < length, "eval.answer_tokens", num, allowed)

    def more(
        self, model: Any, shared: "Shared", reference: Reference | None, ranks: Ranks
    ) -> dict[str, float]:
        """What this evaluation measures beside the common numbers."""
        val = shared.token_set.windows("val")
        found: dict[str, float] = {}
        if reference is not None:
            bins = (self.num_entropy_bins, self.num_calibration_bins)
            measured = by_entropy(model, reference, val, *bins, ranks)
            found |= {f"val/{name}": value for name, value in measured.items()}
        if labels := shared.token_set.labels:
            measured = by_domain(model, val, self.num_tokens, labels.names, ranks)
            found |= {f"val/{name}": value for name, value in measured.items()}
        if self.num_probe_windows:
            vocab_size = shared.token_set.vocab_size
            copies = Copies(self.num_probe_windows, val.seq_len, vocab_size, self.probe_seed)
            said = probe(model, copies, self.num_probe_windows, ranks)
            found |= {f"probe/{name}": value for name, value in copies.measures(*said).items()}
            count = min(self.num_probe_windows, val.num_windows)
            for name, (nats_BL, _, mask_BL) in {
                "copy": said,
                "text": probe(model, val, count, ranks),
            }.items():
                passed = pass_at(nats_BL, mask_BL, self.answer_tokens, self.pass_at)
                found |= {f"probe/{name}_{key}": value for key, value in passed.items()}
        return found


# ---- beside the teacher ------------------------------------------------------------------


@torch.no_grad()
def entropy_edges(
    reference: Reference, windows: "Windows", num_bins: int, device: torch.device
) -> Tensor:
    """What parts the teacher's entropies at positions that count into bins of equal count."""
    head, found = reference.head(device), []
    for start in range(reference.manifest["num_windows"]):
        mask_N = windows.batch(np.array([start])).mask_BL.reshape(-1).to(device)
        for part, logits_CV in reference.logits(start, start + 1, head):
            found.append(entropy(logits_CV.log_softmax(-1))[mask_N[part]])
    shares = torch.arange(1, num_bins, device=device, dtype=torch.float64) / num_bins
    return torch.cat(found).double().sort().values.quantile(shares)


def entropy(logprobs_CV: Tensor) -> Tensor:
    """Nats, [C]."""
    return -torch.einsum("cv,cv->c", logprobs_CV.exp(), logprobs_CV)


@torch.no_grad()
def by_entropy(
    model: Any,
    reference: Reference,
    windows: "Windows",
    num_entropy_bins: int,
    num_calibration_bins: int,
    ranks: Ranks,
) -> dict[str, float]:
    """Loss and KL by the teacher's entropy, and the reliability curve of the student."""
    model.eval()
    device = ranks.device
    edges = entropy_edges(reference, windows, num_entropy_bins, device)
    student_head, teacher_head = head_of(model), reference.head(device)
    bins, curve = Bins(num_entropy_bins, 3, device), Reliability(num_calibration_bins, device)
    count = reference.manifest["num_windows"]
    for start, batch, hidden_ND in passes(model, windows, count, ranks):
        stop = start + batch.tokens_BL.shape[0]
        targets_N, mask_N = batch.targets_BL.reshape(-1), batch.mask_BL.reshape(-1)
        teacher = reference.logits(start, stop, teacher_head)
        student = chunks_of_logits(hidden_ND, student_head)
        for (part, student_CV), (_, teacher_CV) in zip(student, teacher, strict=True):
            mask_C, targets_C = mask_N[part], targets_N[part]
            student_CV, teacher_CV = student_CV.log_softmax(-1), teacher_CV.log_softmax(-1)
            entropy_C = entropy(teacher_CV)
            kl_C = torch.einsum("cv,cv->c", teacher_CV.exp(), teacher_CV - student_CV)
            loss_C = -student_CV.gather(-1, targets_C[:, None])[:, 0]
            bin_C = torch.bucketize(entropy_C.double(), edges)
            bins.add(bin_C[mask_C], *(v[mask_C] for v in (loss_C, kl_C, entropy_C)))
            top_C = argmax(student_CV)
            confidence_C = student_CV.amax(-1).exp().double()
            curve.add(confidence_C[mask_C], (top_C == targets_C)[mask_C])
    model.train()
    ranks.add(bins.sums, curve.bins.sums)
    found = {}
    for name, row in (("loss_entropy", 1), ("teacher_kl_entropy", 2), ("entropy", 3)):
        found |= {f"{name}_{i}": value for i, value in bins.means(row)}
    for name, row in (("confidence", 1), ("accuracy", 2)):
        found |= {f"reliability_{name}_{i:02d}": value for i, value in curve.bins.means(row)}
    counts = curve.bins.counts
    shares = {i: num / sum(counts) for i, num in enumerate(counts, 1) if num}
    return found | {f"reliability_share_{i:02d}": share for i, share in shares.items()}


# ---- the student alone -------------------------------------------------------------------


@torch.no_grad()
def by_domain(
    model: Any, windows: "Windows", num_tokens: int, names: Sequence[str], ranks: Ranks
) -> dict[str, float]:
    """Loss of the targets of each domain, and how many count; of domains that are not here none."""
    model.eval()
    head, device, count = head_of(model), ranks.device, windows.num_windows_in(num_tokens)
    bins = Bins(len(names), 1, device)
    for start, batch, hidden_ND in passes(model, windows, count, ranks):
        domain_BL = windows.domains(np.arange(start, start + len(batch.tokens_BL)))
        domain_N = torch.from_numpy(domain_BL).reshape(-1).to(device)
        targets_N, mask_N = batch.targets_BL.reshape(-1), batch.mask_BL.reshape(-1)
        for part, logits_CV in chunks_of_logits(hidden_ND, head):
            loss_C = F.cross_entropy(logits_CV, targets_N[part], reduction="none")
            mask_C = mask_N[part]
            bins.add(domain_N[part][mask_C], loss_C[mask_C])
    model.train()
    ranks.add(bins.sums)
    found = {}
    for i, loss in bins.means(1):
        name = metric_name(names[i - 1])
        found |= {f"loss_domain_{name}": loss, f"tokens_domain_{name}": bins.counts[i - 1]}
    return found


class Copies:
    """Windows of random tokens, evenly drawn, that are said twice."""

    def __init__(self, num_windows: int, seq_len: int, vocab_size: int, seed: int) -> None:
        self.num_windows, self.seq_len = num_windows, seq_len
        self.span = (seq_len + 1) // 2
        raw = np.random.PCG64(np.random.SeedSequence([seed])).random_raw(num_windows * self.span)
        once = (raw % np.uint64(vocab_size)).astype(np.int64).reshape(num_windows, self.span)
        self.ids = np.concatenate([once, once], 1)
        if self.ids.shape[1] <= seq_len:  # seq_len is even: begin a third time
            self.ids = np.concatenate([self.ids, once[:, :1]], 1)

    def batch(self, index_B: np.ndarray) -> Batch:
        """As ``Windows.batch``."""
        ids = torch.from_numpy(self.ids[index_B])
        tokens_BL, targets_BL = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
        return Batch(tokens_BL, targets_BL, torch.ones_like(targets_BL, dtype=torch.bool), None)

    def measures(self, nats_BL: Tensor, right_BL: Tensor, _: Tensor) -> dict[str, float]:
        """On the text said again, its first token apart, which nothing foretells; and at first."""
        again = slice(self.span, None)
        return {
            "copy_loss": float(nats_BL[:, again].mean()),
            "copy_accuracy": float(right_BL[:, again].double().mean()),
            "fresh_loss": float(nats_BL[:, : self.span - 1].mean()),
        }


@torch.no_grad()
def probe(model: Any, windows: Any, count: int, ranks: Ranks) -> tuple[Tensor, Tensor, Tensor]:
    """Of the first ``count`` windows: loss in nats, whether top-1 is right, what counts; [B, L]."""
    model.eval()
    head, device = head_of(model), ranks.device
    shape = (3, count, windows.seq_len)
    found = torch.zeros(shape, dtype=torch.float64, device=device)
    for start, batch, hidden_ND in passes(model, windows, count, ranks):
        rows = found[:, start : start + len(batch.tokens_BL)].view(3, -1)
        targets_N, mask_N = batch.targets_BL.reshape(-1), batch.mask_BL.reshape(-1)
        for part, logits_CV in chunks_of_logits(hidden_ND, head):
            loss_C = F.cross_entropy(logits_CV, targets_N[part], reduction="none")
            right_C = argmax(logits_CV) == targets_N[part]
            for row, value_C in zip(rows, (loss_C, right_C, mask_N[part]), strict=True):
                row[part] = value_C.double()
    model.train()
    ranks.add(found)
    return found[0], found[1] > 0, found[2] > 0


def pass_at(
    nats_BL: Tensor, mask_BL: Tensor, answer_tokens: int, ks: Sequence[int]
) -> dict[str, float]:
    """Mean over windows of 1 - (1 - p)^k, p the probability of a window's last tokens.

    Windows in whose answer some token does not count are left out.
    """
    whole_B = mask_BL[:, -answer_tokens:].all(-1)
    nats_B = nats_BL[whole_B, -answer_tokens:].sum(-1).clamp(min=1e-12)  # p = 1 is 0 * inf else
    if not len(nats_B):
        return {}
    missed_B = torch.log(-torch.expm1(-nats_B))  # log(1 - p)
    return {f"pass_at_{k}": float(-torch.expm1(k * missed_B).mean()) for k in ks}
