"""The student's logits on one chunk, as a signal asks for them: few numbers, not a graph over V."""

import torch
from torch import Tensor

from pdx.rows import exp

Heat = float | Tensor  # one temperature, or one for each position, [C, 1]


class Student:
    """A chunk of student logits, in float32 or better; gradients flow by autograd.

    The plain form: what a loss called on a tensor sees, and what ``Chunk`` must equal.
    """

    def __init__(self, logits_CV: Tensor) -> None:
        self.logits_CV = upcast(logits_CV)
        self.vocab_size: int = logits_CV.shape[-1]
        self.dtype = self.logits_CV.dtype

    def at(self, ids_CK: Tensor, keep_CK: Tensor, temperature: Heat) -> Tensor:
        """Tempered logits at the kept ids; where ``keep_CK`` is False they mean nothing."""
        return self.logits_CV.gather(-1, kept_ids(ids_CK, keep_CK)) / temperature

    def rest(self, ids_CK: Tensor, keep_CK: Tensor, temperature: Heat) -> Tensor:
        """Logsumexp of all other tempered logits, [C]; minus infinity where there are none."""
        tempered_CV = self.logits_CV / temperature
        return tempered_CV.scatter(-1, kept_ids(ids_CK, keep_CK), -torch.inf).logsumexp(-1)

    def deviation(self) -> Tensor:
        """Standard deviation of the logits over the vocabulary, [C]: a number to the gradient."""
        logits_CV = self.logits_CV.detach()
        return (logits_CV - logits_CV.mean(-1, keepdim=True)).square().mean(-1).sqrt()

    def logits(self, temperature: Heat) -> Tensor:
        """All tempered logits, [C, V]."""
        return self.logits_CV / temperature

    def logprobs(self, temperature: Heat) -> Tensor:
        """Log-softmax of all tempered logits, [C, V]."""
        return (self.logits_CV / temperature).log_softmax(-1)


class Chunk(Student):
    """A chunk whose gradient is formed by hand, in the memory of its logits.

    What a loss asks for are leaves of its own small graph: the logits at the kept tokens, [C, K],
    and the logsumexp of all others, [C]. Together they make the student's normaliser, so one
    softmax over V serves the loss and the cross-entropy alike. It is the softmax of what is not
    kept: neither the tail nor its gradient is then a difference of numbers near one, however
    little the student leaves to it. A dense signal has V leaves a position instead.

    Once: a loss asks, then ``close``. The logits are gone then.
    """

    def __init__(self, logits_CV: Tensor, targets_C: Tensor) -> None:
        super().__init__(logits_CV)
        self._targets_C1 = targets_C[:, None]
        self._target_C = self.logits_CV.gather(-1, self._targets_C1)[:, 0]
        self._leaves: dict[str, Tensor] = {}
        self._temperature: Heat = 1.0
        self._ids_CK: Tensor | None = None
        self._keep_CK: Tensor | None = None
        self._rest_CV: Tensor | None = None  # softmax of what is not kept, at _temperature

    def at(self, ids_CK: Tensor, keep_CK: Tensor, temperature: Heat) -> Tensor:
        kept_CK = self._cut(ids_CK, keep_CK)
        return kept_CK if _is_one(temperature) else kept_CK / temperature

    def rest(self, ids_CK: Tensor, keep_CK: Tensor, temperature: Heat) -> Tensor:
        self._cut(ids_CK, keep_CK)
        assert "rest" not in self._leaves, "a signal asks once"
        self._temperature = temperature
        cold = _is_one(temperature)
        self._rest_CV = self.logits_CV if cold else self.logits_CV / temperature
        return self._leaf("rest", self._softmax_(self._rest_CV))

    def logits(self, temperature: Heat) -> Tensor:
        return self._leaf("logits", self.logits_CV.detach()) / temperature

    def logprobs(self, temperature: Heat) -> Tensor:
        self._temperature = temperature
        return self._leaf("logprobs", (self.logits_CV.detach() / temperature).log_softmax(-1))

    def close(self, kd: Tensor | None, ce_weight_C: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-entropy [C], and the gradient [C, V] of ``kd + sum(ce_weight_C * cross-entropy)``.

        Args:
            kd: a scalar made of what was asked for.
        """
        grads: dict[str, Tensor] = {}
        if kd is not None:
            found = torch.autograd.grad(kd, list(self._leaves.values()), allow_unused=True)
            grads = {k: g for k, g in zip(self._leaves, found, strict=True) if g is not None}
        if "logprobs" in self._leaves:
            return self._close_dense(grads["logprobs"], ce_weight_C)
        return self._close_sparse(grads, ce_weight_C)

    def _close_dense(self, grad_CV: Tensor, ce_weight_C: Tensor) -> tuple[Tensor, Tensor]:
        """Through the log-softmax: grad - softmax * sum(grad), and the cross-entropy's share."""
        logprobs_CV, heat = self._leaves["logprobs"].detach(), self._temperature
        share_C = grad_CV.sum(-1)
        if _is_one(heat):  # the same softmax serves both
            ce_C = -logprobs_CV.gather(-1, self._targets_C1)[:, 0]
            out_CV = logprobs_CV.exp_().mul_((ce_weight_C - share_C)[:, None]).add_(grad_CV)
        else:
            ce_C = self._softmax_(self.logits_CV) - self._target_C
            out_CV = self.logits_CV.mul_(ce_weight_C[:, None]).add_(grad_CV / heat)
            out_CV.addcmul_(logprobs_CV.exp_(), share_C[:, None] / -heat)
        out_CV.scatter_add_(-1, self._targets_C1, -ce_weight_C[:, None])
        return ce_C, out_CV

    def _close_sparse(self, grads: dict[str, Tensor], ce_weight_C: Tensor) -> tuple[Tensor, Tensor]:
        out_CV, heat = self.logits_CV, self._temperature
        if self._rest_CV is out_CV:
            lse_C = rest_C = self._leaves["rest"].detach()
        else:
            lse_C = rest_C = self._softmax_(out_CV)
        if self._ids_CK is not None:
            assert self._keep_CK is not None
            kept_CK = self._leaves["kept"].detach().masked_fill(~self._keep_CK, -torch.inf)
            logprobs_CS = torch.cat([kept_CK, rest_C[:, None]], -1).log_softmax(-1)
            lse_C = kept_CK[:, 0] - logprobs_CS[:, 0]  # the first is always kept
            share_CS = ce_weight_C[:, None] * exp(logprobs_CS)
            weight_C = share_CS[:, -1]
        else:
            share_CS, weight_C = None, ce_weight_C
        if "rest" in grads and self._rest_CV is out_CV:
            weight_C = weight_C + grads["rest"]
        out_CV.mul_(weight_C[:, None])
        if "rest" in grads and self._rest_CV is not out_CV:
            assert self._rest_CV is not None
            out_CV.addcmul_(self._rest_CV, grads["rest"][:, None] / heat)
        if "logits" in grads:
            out_CV.add_(grads["logits"])
        if share_CS is not None:
            assert self._ids_CK is not None
            out_CV.scatter_add_(-1, self._ids_CK, share_CS[:, :-1] + grads.get("kept", 0.0))
        out_CV.scatter_add_(-1, self._targets_C1, -ce_weight_C[:, None])
        return lse_C - self._target_C, out_CV

    def _leaf(self, name: str, value: Tensor) -> Tensor:
        self._leaves[name] = value.requires_grad_()
        return self._leaves[name]

    def _cut(self, ids_CK: Tensor, keep_CK: Tensor) -> Tensor:
        """The logits at the kept tokens; among the others these no longer are."""
        if self._ids_CK is None:
            self._ids_CK, self._keep_CK = kept_ids(ids_CK, keep_CK), keep_CK
            self._leaf("kept", self.logits_CV.gather(-1, self._ids_CK))
            self.logits_CV.scatter_(-1, self._ids_CK, -torch.inf)
        return self._leaves["kept"]

    def _softmax_(self, logits_CV: Tensor) -> Tensor:
        """Logits become their softmax, in place; returns their logsumexp."""
        top_C = logits_CV.amax(-1)
        nothing_C = None
        if self._ids_CK is not None and self._ids_CK.shape[-1] >= self.vocab_size:
            nothing_C = top_C == -torch.inf  # a row that keeps all has no rest
            logits_CV.masked_fill_(nothing_C[:, None], 0.0)
        torch.softmax(logits_CV, -1, out=logits_CV)
        lse_C = top_C - logits_CV.amax(-1).log()  # the largest probability is exp(top - lse)
        return lse_C if nothing_C is None else lse_C.masked_fill(nothing_C, -torch.inf)


def column(heat: float | Tensor) -> Heat:
    """A temperature, or those of positions [N] as [N, 1]."""
    return heat[:, None] if isinstance(heat, Tensor) else heat


def _is_one(heat: Heat) -> bool:
    return not isinstance(heat, Tensor) and heat == 1.0


def upcast(logits: Tensor) -> Tensor:
    """Half precision is no place for a softmax; float64 (the tests' oracle) is left alone."""
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def kept_ids(ids_CK: Tensor, keep_CK: Tensor) -> Tensor:
    """A dropped entry must not hide its id from the rest: let it point at one that is kept."""
    return torch.where(keep_CK, ids_CK, ids_CK[:, :1])
