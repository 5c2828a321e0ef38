"""Plants bugs one at a time in a copy of pdx, and says which test catches each.

Run ``python tests/mutations.py [WORDS]``: only mutations whose name holds one of WORDS. Exits
non-zero if a bug survives, or if the text that a mutation replaces is no longer there.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
COPIED = ("pdx", "conf", "sweeps", "analysis", "hydra_plugins", "tests", "benchmarks")
COPIED += ("pyproject.toml",)
TESTS_FAILED = 1  # pytest's exit status; 2 and above mean that it could not even ask


class Mutation(NamedTuple):
    """One bug: ``old`` becomes ``new`` wherever it stands in ``file``."""

    name: str
    file: str
    old: str
    new: str
    tests: str  # files under tests/, without test_ and .py
    times: int = 1  # how often ``old`` stands there


MUTATIONS = [
    # ---- one pass ----
    Mutation(
        "one pass: nothing is compiled",
        "store/columns.py",
        "(_in_one_pass(*known), None) if compiled else float_columns(*known)",
        "float_columns(*known)",
        "store",
    ),
    Mutation(
        "one pass: compiled anew for another number of rows",
        "store/columns.py",
        "    maybe_mark_dynamic(logits_CV, 0)\n",
        "",
        "store",
    ),
    Mutation(
        "memory: a teacher that is made is weighed",
        "memory.py",
        "[] if made else ",
        "",
        "memory",
    ),
    # ---- domains ----
    Mutation(
        "tail_aware: the mean of a window over what does not count",
        "live.py",
        "(torch.cat(mass).view_as(mask_BL) * mask_BL).sum(-1)",
        "torch.cat(mass).view_as(mask_BL).sum(-1)",
        "losses",
    ),
    Mutation(
        "tail_aware: the window's mean forgotten",
        "losses/tail_aware.py",
        "weight = self.tail_weight / teacher.tail_N.clamp(min=LEAST_MEAN)",
        "weight = self.tail_weight",
        "losses",
    ),
    Mutation(
        "mse_logits: a mean over what is not kept, too",
        "losses/mse_logits.py",
        "/ keep_CS.sum(-1)",
        "/ keep_CS.shape[-1]",
        "losses",
    ),
    Mutation(
        "domains: a token is of the span of its first byte",
        "data/domains.py",
        "np.cumsum(num_bytes) - 1, 0)",
        "np.cumsum(num_bytes) - num_bytes, 0)",
        "domains",
    ),
    Mutation(
        "domains: of what is read, not of what is to be said",
        "data/tokens.py",
        "shard.positions(local)[:, 1:]",
        "shard.positions(local)[:, :-1]",
        "domains",
    ),
    Mutation(
        "domains: of windows that were chosen, by their new numbers",
        "data/chosen.py",
        "self._chosen_from.domains(self._base(index_B))",
        "self._chosen_from.domains(index_B)",
        "domains",
    ),
    Mutation(
        "domains: made again of another text",
        "data/domains.py",
        "if digest_file(shard) != digest_file(again / shard.name):",
        "if not (again / shard.name).exists():",
        "domains",
    ),
    Mutation(
        "domains: one choice of them read for another",
        "data/domains.py",
        "digest(labelling(data), 12)",
        '"labels"',
        "domains",
    ),
    Mutation(
        "domains: runs that read them named without them",
        "config.py",
        "routed or self.eval.reads_domains",
        "routed",
        "domains",
    ),
    Mutation(
        "domains: the teacher speaks in the others",
        "routing.py",
        "return mask_BL & within_BL",
        "return mask_BL & ~within_BL",
        "domains",
    ),
    Mutation(
        "domains: loss by domain of positions that do not count",
        "probes.py",
        "bins.add(domain_N[part][mask_C], loss_C[mask_C])",
        "bins.add(domain_N[part], loss_C)",
        "domains",
    ),
    # ---- a search's best on fresh seeds ----
    Mutation(
        "a search confirmed while some of it still runs",
        "sweep/winners.py",
        "num_runs and controls",
        "num_runs",
        "confirm",
    ),
    Mutation(
        "a winner that broke a bound",
        "sweep/winners.py",
        "and all(v <= 0 for v in t.constraints.values())",
        "",
        "confirm",
    ),
    Mutation(
        "a winner's control of another schedule",
        "sweep/winners.py",
        "(_num_apart(c[1][0], winner), c[0])",
        "c[0]",
        "confirm",
    ),
    Mutation(
        "a control at any of its rates",
        "sweep/winners.py",
        "best = min(means, key=lambda rate: means[rate])",
        "best = next(iter(means))",
        "confirm",
    ),
    Mutation(
        "seeds that the search has seen",
        "sweep/confirm.py",
        "if stale := sorted(used.intersection(self.seeds)):",
        "if stale := sorted(used - used):",
        "confirm",
    ),
    Mutation(
        "runs that confirm among those that were searched",
        "analysis/questions/results.py",
        '(runs["status"] == "complete") & (runs["role"] != CONFIRM)',
        'runs["status"] == "complete"',
        "confirm",
    ),
    Mutation(
        "winners of a search judged one by one",
        "analysis/questions/confirmed.py",
        "iter(holm([effect.p_zero() for effect in effects if effect]))",
        "iter([effect.p_zero() for effect in effects if effect])",
        "confirm",
    ),
    # ---- seeds of teachers and draws; what matters together ----
    Mutation(
        "students of one teacher as samples of teachers",
        "analysis/runs/seeds.py",
        'return values.groupby(runs["teacher_seed"]).mean()',
        "return values",
        "seeds",
    ),
    Mutation(
        "draws for one seed as seeds of their own",
        "analysis/runs/seeds.py",
        'return values.groupby(runs["seed"]).mean() if several else values',
        "return values",
        "seeds",
    ),
    Mutation(
        "a verdict over teachers by the noise of one teacher's runs",
        "analysis/questions/verdicts.py",
        'Noise(sd=float("nan"), dof=0) if by_teacher else noise',
        "noise",
        "seeds",
    ),
    Mutation(
        "a search for the luckiest teacher",
        "sweep/search.py",
        '("train.seed", "teacher.seed",',
        '("train.seed",',
        "seeds",
    ),
    Mutation(
        "an interaction that is a slope inside a quarter",
        "analysis/questions/interactions.py",
        "for k in (1, 2, 3)]",
        "for k in ()]",
        "interactions",
    ),
    Mutation(
        "runs of rare cells left in",
        "analysis/questions/interactions.py",
        "_basis(np.hstack([design, apart]))",
        "_basis(design)",
        "interactions",
    ),
    Mutation(
        "pairs of settings judged one by one",
        "analysis/questions/interactions.py",
        'row["p"] = p',
        'row["p"] = row["p"]',
        "interactions",
    ),
    # ---- probes ----
    Mutation(
        "probe: a copy's unforetold first token counted",
        "probes.py",
        "again = slice(self.span, None)",
        "again = slice(self.span - 1, None)",
        "probes",
    ),
    Mutation(
        "probe: pass@k of one draw",
        "probes.py",
        "-torch.expm1(k * missed_B)",
        "-torch.expm1(missed_B)",
        "probes",
    ),
    Mutation(
        "probe: masked positions in the bins of entropy",
        "probes.py",
        "bins.add(bin_C[mask_C], *(v[mask_C] for v in (loss_C, kl_C, entropy_C)))",
        "bins.add(bin_C, loss_C, kl_C, entropy_C)",
        "probes",
    ),
    Mutation(
        "probe: an answer scored a token too late",
        "harness.py",
        "hidden_BLD[at, stop - len(answer) : stop]",
        "hidden_BLD[at, stop - len(answer) - 1 : stop - 1]",
        "downstream",
    ),
    # ---- signal ----
    Mutation(
        "T^2 dropped",
        "temperature.py",
        "return Heats(heat, heat, heat**2) if",
        "return Heats(heat, heat, 1.0) if",
        "signal",
    ),
    Mutation(
        "T^2 in nothing but the number",
        "reduce.py",
        "torch.where(taught_C, part.scale * loss(student, part), 0.0)",
        "torch.where(taught_C, loss(student, part), 0.0)",
        "losses",
    ),
    Mutation(
        "student renormalised on top-K",
        "sparse.py",
        "return torch.cat([kept_CK, rest_C1], -1).log_softmax(-1)",
        "return torch.cat([kept_CK.log_softmax(-1), rest_C1 * 0 - 30], -1)",
        "losses",
    ),
    Mutation(
        "half precision not upcast",
        "student.py",
        "return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits",
        "return logits",
        "losses",
    ),
    Mutation(
        "tail from the logsumexp of another temperature",
        "signals/truncated.py",
        "lse_N = rows.facts.lse[heat]",
        "lse_N = rows.facts.lse[1.0]",
        "signal",
    ),
    Mutation(
        "entries beyond top_k forgotten by the tail",
        "signals/truncated.py",
        "        if rest_N is not None:\n            logits_NK",
        "        if False:\n            logits_NK",
        "signal",
    ),
    Mutation(
        "what is dropped stays in the softmax of what is kept",
        "sparse.py",
        "logits_CK + (self._is_kept - 1) * -WALL",
        "logits_CK",
        "signal",
    ),
    Mutation(
        "the first largest: of the last ids none is looked at",
        "largest.py",
        "if end == vocab_size:",
        "if True:",
        "largest",
    ),
    Mutation(
        "draws from masses that deviations were made of",
        "store/columns.py",
        "/ around_CV.shape[-1] ** 0.5\n    return columns, mass_CV",
        "/ around_CV.shape[-1] ** 0.5\n    return columns, around_CV.exp()",
        "store_codecs",
    ),
    Mutation(
        "rows that keep everything have a tail of minus infinity",
        "sparse.py",
        "return self.keep_NK.sum(-1, keepdim=True) == student.vocab_size",
        "return self.keep_NK.sum(-1, keepdim=True) < 0",
        "signal losses",
    ),
    Mutation(
        "dropped tokens missing from the tail",
        "student.py",
        "return torch.where(keep_CK, ids_CK, ids_CK[:, :1])",
        "return ids_CK",
        "signal",
    ),
    Mutation(
        "top-p off by one (too few)",
        "signals/truncated.py",
        "keep_NK = before_NK < top_p",
        "keep_NK = before_NK + probs_NK < top_p",
        "signal",
    ),
    Mutation(
        "top-p off by one (too many)",
        "signals/truncated.py",
        "keep_NK = before_NK < top_p",
        "keep_NK = before_NK - probs_NK < top_p",
        "signal",
    ),
    Mutation(
        "top-p without the normaliser of the whole vocabulary",
        "signals/truncated.py",
        "probs_NK = (rows.logits_NK - rows.facts.lse[1.0][:, None]).exp()",
        "probs_NK = rows.logits_NK.softmax(-1)",
        "signal",
    ),
    Mutation(
        "teacher not tempered",
        "sparse.py",
        "return self.logits_NK.to(student.dtype) / column(self.heats.teacher)",
        "return self.logits_NK.to(student.dtype)",
        "signal",
    ),
    Mutation(
        "student always tempered",
        "temperature.py",
        "else Heats(heat, 1.0, 1.0)",
        "else Heats(heat, heat, 1.0)",
        "signal",
    ),
    Mutation(
        "teacher not renormalised",
        "sparse.py",
        "teacher_CK = self._only_kept(self._tempered(student)).log_softmax(-1)",
        "teacher_CK = self._tempered(student) - self.logits_NK.logsumexp(-1)[:, None]",
        "signal",
    ),
    Mutation(
        "gradient into the teacher",
        "live.py",
        "return upcast(self.head(self.hidden_ND[start:stop])).detach()",
        "return upcast(self.head(self.hidden_ND[start:stop]))",
        "signal",
    ),
    Mutation(
        "sparse chunk of other positions",
        "sparse.py",
        "keep_NK=self.keep_NK[start:stop]",
        "keep_NK=self.keep_NK[: stop - start]",
        "signal",
    ),
    # ---- losses ----
    Mutation(
        "forward KL reversed",
        "losses/forward_kl.py",
        "(teacher_CS.exp() * (teacher_CS - student_CS)).sum(-1)",
        "(student_CS.exp() * (student_CS - teacher_CS)).sum(-1)",
        "losses",
    ),
    Mutation(
        "soft_ce computing KL",
        "losses/soft_ce.py",
        "-(teacher_CS.exp() * student_CS).sum(-1)",
        "(teacher_CS.exp() * (teacher_CS - student_CS)).sum(-1)",
        "losses",
    ),
    Mutation(
        "mse not centred",
        "losses/mse.py",
        "gap_CS = gap_CS - gap_CS.sum(-1, keepdim=True) / num_kept_C1",
        "gap_CS = gap_CS * 1.0",
        "losses",
    ),
    Mutation(
        "mse counts dropped entries",
        "losses/mse.py",
        "num_kept_C1 = keep_CS.sum(-1, keepdim=True)",
        "num_kept_C1 = keep_CS.sum(-1, keepdim=True) * 0 + keep_CS.shape[-1]",
        "losses",
    ),
    Mutation(
        "to_label gives the rest to the first kept token",
        "sparse.py",
        "is_label_CK = (self.ids_NK == label_C1) & self.keep_NK",
        "is_label_CK = (self.ids_NK == self.ids_NK[:, :1]) & self.keep_NK",
        "signal",
    ),
    Mutation(
        "to_label forgets a label that is kept",
        "sparse.py",
        "kept_CK = torch.where(is_label_CK, torch.logaddexp(kept_CK, rest_C1), kept_CK)",
        "kept_CK = kept_CK * 1.0",
        "signal",
    ),
    Mutation(
        "smooth spreads over the whole vocabulary",
        "sparse.py",
        "num_rest_C1 = student.vocab_size - self.keep_NK.sum(-1, keepdim=True)",
        "num_rest_C1 = student.vocab_size - 0 * self.keep_NK.sum(-1, keepdim=True)",
        "signal",
    ),
    Mutation(
        "drop renormalises",
        "sparse.py",
        "return self._without_dropped(teacher_CS[:, :-1], student_CS[:, :-1])",
        "return self._without_dropped(teacher_CS[:, :-1].log_softmax(-1), student_CS[:, :-1])",
        "signal",
    ),
    Mutation(
        "decoupled mass at the temperature",
        "sparse.py",
        "logits_CK = self.logits_NK.to(student.dtype) if decoupled else self._tempered(student)",
        "logits_CK = self._tempered(student)",
        "signal",
    ),
    Mutation(
        "decoupled multiplied by T^2",
        "sparse.py",
        'return 1.0 if self.tail == "decoupled" else self.heats.scale',
        "return self.heats.scale",
        "signal",
    ),
    Mutation(
        "importance weights renormalised",
        "signals/sampled.py",
        'return "renormalize" if self.proposal_power == 1.0 else "weights"',
        'return "renormalize"',
        "draws",
    ),
    Mutation(
        "draws of another proposal not weighted",
        "signals/sampled.py",
        "weights_CK + ratio_CV.gather(-1, ids_CK)",
        "weights_CK + 0 * ratio_CV.gather(-1, ids_CK)",
        "draws",
    ),
    Mutation(
        "temperature by entropy upside down",
        "temperature.py",
        "return self._at(-torch.expm1(-facts.entropy_N))",
        "return self._at(torch.exp(-facts.entropy_N))",
        "signal",
    ),
    Mutation(
        "NormKD tempers the student by the teacher",
        "signal.py",
        "if self.student_norm is None:",
        "if True:",
        "signal",
    ),
    Mutation(
        "WTTM without its weight",
        "temperature.py",
        "return Heats(self.value, 1.0, weight_N)",
        "return Heats(self.value, 1.0, 1.0)",
        "signal",
    ),
    Mutation(
        "reverse KL reversed",
        "losses/reverse_kl.py",
        "(student_CS.exp() * (student_CS - teacher_CS)).sum(-1)",
        "(teacher_CS.exp() * (teacher_CS - student_CS)).sum(-1)",
        "losses",
    ),
    Mutation(
        "JSD with its weights swapped",
        "losses/jsd.py",
        "mixture_CS = log_mixture(teacher_CS, student_CS, self.teacher_weight)",
        "mixture_CS = log_mixture(student_CS, teacher_CS, self.teacher_weight)",
        "losses",
    ),
    Mutation(
        "skewed forward KL skewed to the student",
        "losses/skewed_forward_kl.py",
        "log_mixture(teacher_CS, student_CS, self.skew)",
        "log_mixture(student_CS, teacher_CS, self.skew)",
        "losses",
    ),
    Mutation(
        "skewed reverse KL skewed to the teacher",
        "losses/skewed_reverse_kl.py",
        "log_mixture(student_CS, teacher_CS, self.skew)",
        "log_mixture(teacher_CS, student_CS, self.skew)",
        "losses",
    ),
    Mutation(
        "total variation not halved",
        "losses/total_variation.py",
        "0.5 * (teacher",
        "1.0 * (teacher",
        "losses",
    ),
    Mutation(
        "probabilities averaged",
        "losses/mse_probs.py",
        ".square().sum(-1)",
        ".square().mean(-1)",
        "losses",
    ),
    Mutation(
        "tail weight on the whole mass",
        "losses/tail_aware.py",
        "+ between_C + weight * inside_C",
        "+ weight * (between_C + inside_C)",
        "losses",
    ),
    Mutation(
        "variance masked too",
        "losses/masked_mse.py",
        "return sure_C * square_C + self.variance_weight * variance_C",
        "return sure_C * (square_C + self.variance_weight * variance_C)",
        "losses",
    ),
    Mutation(
        "routed positions lose cross-entropy",
        "reduce.py",
        "share_C = mask_C * (1 - kd_weight * taught_C.to(student.dtype))",
        "share_C = mask_C * (1 - kd_weight)",
        "reduce",
    ),
    Mutation(
        "routing by rank among masked positions too",
        "routing.py",
        "entropy_BL.masked_fill(~mask_BL, torch.inf)",
        "entropy_BL",
        "routing",
    ),
    Mutation(
        "routing skips the least sure",
        "routing.py",
        "mask_BL & (rank_BL >= num_skipped_B[:, None])",
        "mask_BL & (rank_BL < mask_BL.sum(-1)[:, None] - num_skipped_B[:, None])",
        "routing",
    ),
    Mutation(
        "mix=one_minus_wsd is mix=wsd",
        "mix.py",
        "return 1 - super().__call__(fraction)",
        "return super().__call__(fraction)",
        "schedule",
    ),
    Mutation(
        "a period begins with the text",
        "mix.py",
        "< self.high_frac else",
        "> self.high_frac else",
        "schedule",
    ),
    # ---- reduction ----
    Mutation(
        "mask ignored by cross-entropy",
        "reduce.py",
        "share_C = mask_C * (1",
        "share_C = torch.ones_like(mask_C) * (1",
        "reduce",
    ),
    Mutation(
        "mask ignored by the loss",
        "reduce.py",
        "torch.where(taught_C, part.scale * loss(student, part), 0.0).sum()",
        "(part.scale * loss(student, part)).sum()",
        "reduce",
    ),
    Mutation(
        "T^2 in the value only",
        "reduce.py",
        "kd_share = kd * (kd_weight / num_valid)",
        "kd_share = kd * (kd_weight / num_valid / part.scale)",
        "losses",
    ),
    Mutation(
        "every chunk reads the first positions of the signal",
        "reduce.py",
        "signal.chunk(start, stop)",
        "signal.chunk(0, stop - start)",
        "losses",
    ),
    Mutation(
        "cross-entropy without its weight",
        "reduce.py",
        "(1 - kd_weight * taught_C.to(student.dtype))",
        "(1 - 0 * taught_C.to(student.dtype))",
        "reduce",
    ),
    Mutation(
        "cross-entropy of half precision not upcast",
        "reduce.py",
        "self.dtype = torch.promote_types(self.hidden_ND.dtype, torch.float32)",
        "self.dtype = self.hidden_ND.dtype",
        "reduce",
    ),
    Mutation(
        "chunks ignored",
        "reduce.py",
        "size = min(chunk or chunk_size(head.vocab_size, hidden_ND.device), len(hidden_ND))",
        "size = len(hidden_ND)",
        "reduce",
    ),
    Mutation(
        "cross-entropy's gradient at the kept tokens forgotten",
        "student.py",
        "share_CS[:, :-1] + grads.get",
        "0 * share_CS[:, :-1] + grads.get",
        "reduce",
    ),
    Mutation(
        "tempered rest without its temperature",
        "student.py",
        'grads["rest"][:, None] / heat',
        'grads["rest"][:, None]',
        "reduce",
    ),
    Mutation(
        "soft cap without its slope",
        "reduce.py",
        "grad_CV.mul_(self.slope_CV)",
        "pass",
        "reduce",
    ),
    # ---- feed ----
    Mutation(
        "a step gets what was read for another",
        "feed.py",
        "self._reading.pop(step).result()",
        "self._reading.pop(min(self._reading)).result()",
        "feed",
    ),
    # ---- together ----
    Mutation(
        "a group goes on with what it had of the step before",
        "together.py",
        "                self.here.clear()\n",
        "",
        "together",
    ),
    Mutation(
        "a run of a group hears what another made of the teacher's logits",
        "feed.py",
        'heard if what == "signal" else (routing.shift,)',
        "(routing.shift,)",
        "together",
    ),
    Mutation(
        "a run of a group that is silent at some steps reads for all",
        "feed.py",
        "parts.append([step for step in range(run.num_steps) if not _is_taught(run, step)])",
        "pass",
        "together",
    ),
    Mutation(
        "a slot that is shared is paid by each of a group",
        "sweep/budget.py",
        'share = 1 / trial.user_attrs.get("group_size", 1)',
        "share = 1",
        "queue",
    ),
    Mutation(
        "seeds share a process",
        "sweep/groups.py",
        '("data", "text", "train", "teacher", "weak_teacher", "store")',
        '("data", "text", "teacher", "weak_teacher", "store")',
        "queue",
    ),
    # ---- loop ----
    Mutation(
        "mean of micro-batch means",
        "train.py",
        "kd_weight,\n                    num_valid,",
        "kd_weight,\n                    batch.num_valid * len(micro_batches) or 1,",
        "train",
    ),
    Mutation(
        "forgotten zero_grad",
        "train.py",
        "        optimizer.zero_grad(set_to_none=True)\n",
        "",
        "train",
    ),
    Mutation(
        "schedule asked at the step, not its midpoint",
        "train.py",
        "fraction = (step + 0.5) / num_steps",
        "fraction = step / num_steps",
        "train",
    ),
    Mutation(
        "weight decay on norms",
        "optim.py",
        '"weight_decay": 0.0}',
        '"weight_decay": self.weight_decay}',
        "train",
    ),
    Mutation(
        "learning rate of another width upside down",
        "optim.py",
        "peak_lr *= self.lr_reference_width / model.config.hidden_size",
        "peak_lr *= model.config.hidden_size / self.lr_reference_width",
        "train",
    ),
    Mutation(
        "gradient not clipped",
        "spread.py",
        "clip_grads_with_norm_(parameters, clip_norm, norm)",
        "clip_grads_with_norm_(parameters, 1e9, norm)",
        "train",
    ),
    Mutation(
        "kd_weight ignored in what is reported",
        "reduce.py",
        "loss_sum += kd_weight * kd.detach()",
        "loss_sum += kd.detach()",
        "reduce train",
    ),
    Mutation(
        "bad gradients forgotten",
        "tally.py",
        'self.sums["bad"] += ~torch.isfinite(grad_norm)',
        "pass",
        "train",
    ),
    Mutation(
        "sums not begun anew at a report",
        "train.py",
        "            tally = Tally(ranks, seconds)\n",
        "            tally.since = seconds\n",
        "train",
    ),
    # ---- resume ----
    Mutation(
        "resume loses the optimizer's state",
        "spread.py",
        '        optimizer.load_state_dict(state["optimizer"])\n',
        "",
        "train",
    ),
    Mutation(
        "resume restarts the data order",
        "train.py",
        "feed(step)\n",
        "feed(step - first)\n",
        "train",
    ),
    Mutation(
        "sums dropped from the checkpoint",
        "train.py",
        'tally, seconds, first = Tally.of(state["sums"], ranks), state["seconds"], state["step"]',
        'seconds, first = state["seconds"], state["step"]',
        "train",
    ),
    Mutation(
        "report of the checkpoint's own step lost",
        "train.py",
        "if step > 0 and (step in eval_steps",
        "if step > first and (step in eval_steps",
        "train",
    ),
    Mutation(
        "log of the checkpoint's step kept twice",
        "journal.py",
        'if json.loads(line)["step"] < step:',
        'if json.loads(line)["step"] <= step:',
        "train",
    ),
    Mutation("a finished run runs again", "execute.py", "if result is None:", "if True:", "train"),
    # ---- several processes a run ----
    Mutation(
        "each rank divides by its own tokens",
        "train.py",
        "num_valid = ranks.total(sum(b.num_valid for b in micro_batches))",
        "num_valid = sum(b.num_valid for b in micro_batches)",
        "ranks",
    ),
    Mutation(
        "gradients averaged over replicas",
        "ranks.py",
        "                work.wait()",
        "                work.wait()\n            [t.div_(self.world_size) for t in tensors]",
        "ranks",
    ),
    Mutation(
        "gradients averaged over shards",
        "spread.py",
        "module.set_gradient_divide_factor(1.0)",
        "module.set_gradient_divide_factor(2.0)",
        "ranks",
    ),
    Mutation(
        "head's gradient stays on its rank",
        "spread.py",
        "grad = DTensor.from_local(leaf.grad, self._mesh, [Partial()])",
        "grad = distribute_tensor(leaf.grad, self._mesh, [Shard(0)])",
        "ranks",
    ),
    Mutation(
        "head's gradient replaces that of the tied embedding",
        "spread.py",
        "parameter.grad = grad if parameter.grad is None else parameter.grad + grad",
        "parameter.grad = grad",
        "ranks",
    ),
    Mutation(
        "every rank reads the first rank's windows",
        "feed.py",
        "step * train.batch_size + self.ranks.rank * share",
        "step * train.batch_size",
        "ranks",
    ),
    Mutation(
        "sums of a checkpoint taken up by every rank",
        "tally.py",
        "        if ranks.leads:\n            tally.sums",
        "        if True:\n            tally.sums",
        "ranks",
    ),
    Mutation(
        "a checkpoint keeps one rank's sums",
        "tally.py",
        "self.ranks.add(*sums.values())",
        "pass",
        "ranks",
    ),
    Mutation(
        "a batch run for nothing is counted",
        "evaluate.py",
        "        if mine < count:\n            yield",
        "        if True:\n            yield",
        "ranks",
    ),
    Mutation(
        "held-out loss of one rank's part",
        "evaluate.py",
        "    ranks.add(nats)\n",
        "",
        "ranks",
    ),
    # ---- the end ----
    Mutation(
        "diverged run reported as nan",
        "execute.py",
        "worst = float(torch.tensor(float(shared.token_set.vocab_size)).log())",
        'worst = float("nan")',
        "train",
    ),
    Mutation(
        "last update's NaN reaches the result",
        "execute.py",
        'if not math.isfinite(measured["loss"]):',
        "if False:",
        "train",
    ),
    # ---- data ----
    Mutation(
        "targets not shifted",
        "data/tokens.py",
        "torch.from_numpy(np.ascontiguousarray(ids[:, 1:]))",
        "torch.from_numpy(np.ascontiguousarray(ids[:, :-1]))",
        "train",
    ),
    Mutation(
        "targets shifted twice",
        "data/tokens.py",
        "torch.from_numpy(np.ascontiguousarray(ids[:, 1:]))",
        "torch.from_numpy(np.roll(ids, -2, 1)[:, :-1].copy())",
        "train",
    ),
    Mutation(
        "one order for all epochs",
        "data/tokens.py",
        "order = random_order(num_used, seed, epoch)",
        "order = random_order(num_used, seed, 0)",
        "train",
    ),
    Mutation(
        "order does not depend on the seed",
        "feed.py",
        "            train.seed,\n",
        "            0,\n",
        "train",
    ),
    # ---- store ----
    Mutation(
        "store reads the wrong window",
        "store/reader.py",
        "planes = self._planes(int(window), tokens)\n            columns",
        "planes = self._planes(int(window) - 1, None)\n            columns",
        "store",
    ),
    Mutation(
        "checksum not checked",
        "store/format.py",
        'if zlib.crc32(block) != self.index["checksum"][i]:',
        "if False:",
        "store",
    ),
    Mutation(
        "every shard of a store stays open",
        "store/reader.py",
        "lru_cache(OPEN_SHARDS)",
        "lru_cache(None)",
        "store",
    ),
    Mutation(
        "offsets of a store's draws stay on the host",
        "store/columns.py",
        "offset_N = offsets.reshape(-1).to(teacher.device)",
        "offset_N = offsets.reshape(-1)",
        "on_a_gpu",
    ),
    Mutation(
        "offsets of a step's draws stay on the host",
        "feed.py",
        "offset_N = offsets.roll(routing.shift, -1).reshape(-1).to(self.device)",
        "offset_N = offsets.roll(routing.shift, -1).reshape(-1)",
        "on_a_gpu",
    ),
    Mutation(
        "encoder does not wait for the copy from the GPU",
        "store/writer.py",
        "batch.copied.synchronize()",
        "pass",
        "on_a_gpu",
    ),
    Mutation(
        "tokens digest not checked",
        "store/reader.py",
        "if tokens is not None and tokens_digest(tokens) != captured_for:",
        "if False:",
        "store",
    ),
    Mutation(
        "digest of the inputs only, not of the last target",
        "store/reader.py",
        'raw = np.ascontiguousarray(ids, dtype="<u4").tobytes()',
        'raw = np.ascontiguousarray(ids[:-1], dtype="<u4").tobytes()',
        "store",
    ),
    Mutation(
        "manifest not checked",
        "store/reader.py",
        "        if found.get(key) != value\n",
        '        if found.get(key) != value and key != "teacher_id"\n',
        "store",
    ),
    Mutation(
        "format version not checked",
        "store/reader.py",
        'if found.get("format_version") != FORMAT_VERSION:',
        "if False:",
        "store",
    ),
    Mutation(
        "size of a shard not checked",
        "store/format.py",
        "if size != said:",
        "if False:",
        "store",
    ),
    Mutation(
        "logsumexp at one temperature for all",
        "store/columns.py",
        "total[heat] = mass_CV.sqrt().sum(-1)",
        "total[heat] = mass_CV.sum(-1)",
        "store",
    ),
    Mutation(
        "temperatures of the store mixed up",
        "store/reader.py",
        '{t: columns_of[f"lse@{t:g}"] for t in self.layout.temperatures}',
        '{t: columns_of[f"lse@{1 / t:g}"] for t in self.layout.temperatures}',
        "store",
    ),
    Mutation(
        "target log-probability of the input token",
        "store/columns.py",
        "targets_N = batch.targets_BL.reshape(-1)",
        "targets_N = batch.tokens_BL.reshape(-1)",
        "store",
    ),
    Mutation(
        "shard written in place",
        "store/writer.py",
        "write_bytes(path, payload)",
        "path.write_bytes(payload)",
        "store",
    ),
    Mutation(
        "two captures take the same shard",
        "store/writer.py",
        "if not lock.enter_context(locked(_lock_path(directory, shard), wait=False)):",
        "if False:",
        "store",
    ),
    Mutation(
        "kept mass not kept",
        "store/codecs/topk.py",
        "top_N = top_N + moved[1.0]",
        "top_N = top_N + 0.0",
        "store",
    ),
    Mutation(
        "logsumexp not moved with the row",
        "store/codecs/topk.py",
        "+ moved[1.0] / heat - moved_N",
        "+ moved[1.0] / heat",
        "store",
    ),
    Mutation(
        "quantisation rounds down",
        "store/codecs/topk.py",
        "np.rint(true_NK * (-1 / LOGIT_STEP))",
        "np.floor(true_NK * (-1 / LOGIT_STEP))",
        "store_codecs",
    ),
    Mutation(
        "a field's top bits lost at a word's end",
        "store/kernels.py",
        "words[word + 1] |= np.uint32((both >> 32) & LOW)",
        "words[word + 1] |= np.uint32(0)",
        "store_codecs",
    ),
    Mutation(
        "a one taken twice",
        "store/kernels.py",
        "return word * WORD + place, word, left & (left - 1)",
        "return word * WORD + place, word, left",
        "store_codecs",
    ),
    Mutation(
        "counts one too few",
        "store/kernels.py",
        "((field >> exponent) & (lead - 1)) | lead",
        "((field >> exponent) & (lead - 1)) | (lead >> 1)",
        "store_codecs",
    ),
    Mutation(
        "a row's steps go on from the row before",
        "store/kernels.py",
        "            if k:  # a row",
        "            if n + k:  # a row",
        "store_codecs",
    ),
    Mutation(
        "rows padded by another row's id",
        "store/kernels.py",
        "first = ids_E[entry] if num else 0",
        "first = ids_E[0] if num else 0",
        "store_codecs",
    ),
    Mutation(
        "a sharded student takes as much on each GPU",
        "memory.py",
        'shards = env.gpus_per_run if env.sharding == "fsdp" else 1',
        "shards = 1",
        "memory",
    ),
    Mutation(
        "the last ids are never among the largest",
        "largest.py",
        "if end < vocab_size:",
        "if False:",
        "largest",
    ),
    Mutation(
        "one block less is looked through",
        "largest.py",
        "block_CK = blocks_CWM.amax(1).topk(top_k,",
        "block_CK = blocks_CWM[:, :-1].amax(1).topk(top_k,",
        "largest",
    ),
    Mutation(
        "draws depend on the place in the batch",
        "store/columns.py",
        "offset_N[start:stop])",
        "offset_N[:size] * 0)",
        "store",
    ),
    Mutation(
        "first draws are the smallest",
        "draws.py",
        "numbers_NJ.argsort(1).argsort(1)[:, :num_first]",
        "np.arange(num_first)[None].repeat(len(num_N), 0)",
        "draws",
    ),
    Mutation(
        "a shard of another store taken",
        "store/format.py",
        "if owner.decode() != store_id:",
        "if False:",
        "store",
    ),
    Mutation(
        "another teacher's rows pass",
        "store/verify.py",
        "if verdict.apart > 0.01 + 2 * verdict.control_apart:",
        "if False:",
        "store_verify",
    ),
    Mutation(
        "undeclared temperature not refused",
        "store/kept.py",
        "if heat not in self.temperatures:",
        "if False:",
        "store",
    ),
    Mutation(
        "larger k not refused",
        "store/kept.py",
        "asked is not None and asked > top_k:",
        "False:",
        "store",
    ),
    Mutation(
        "hidden states rounded down",
        "store/states.py",
        "steps_BLG[..., None]).round_()",
        "steps_BLG[..., None]).floor_()",
        "store_hidden",
    ),
    Mutation(
        "hidden states of layers that are not kept",
        "store/kept.py",
        "if n not in self.hidden_layers]",
        "if False]",
        "store_hidden",
    ),
    Mutation(
        "hidden states make another store of the run",
        "shared.py",
        '"temperatures": list(layout.temperatures),',
        '"temperatures": list(layout.temperatures), "hidden": list(layout.hidden_layers),',
        "store_hidden",
    ),
    Mutation(
        "rows written anew for hidden states",
        "store/writer.py",
        "{part: [] for part in lacking}",
        "{part: [] for part in store.layout.parts}",
        "store_hidden",
    ),
    Mutation(
        "precision of hidden states no part of the run",
        "config.py",
        "if self.is_stored and self.hidden.exists:",
        "if False:",
        "store_hidden",
    ),
    # ---- teacher ----
    Mutation(
        "padded rows kept", "frozen.py", "head_of(model, vocab_size)", "head_of(model)", "teacher"
    ),
    Mutation(
        "smaller head not refused", "frozen.py", "if rows < vocab_size:", "if False:", "teacher"
    ),
    Mutation(
        "other tokenizer not refused", "frozen.py", "if theirs != ours:", "if False:", "teacher"
    ),
    Mutation(
        "head not compared", "frozen.py", "    _check_head(teacher)\n    if", "    if", "teacher"
    ),
    Mutation(
        "document mask not compared",
        "frozen.py",
        'if token_set.manifest["document_mask"]:',
        "if False:",
        "teacher",
    ),
    Mutation(
        "pickled weights loaded",
        "frozen.py",
        "trust_remote_code=False, use_safetensors=True, **options",
        "trust_remote_code=False, **options",
        "teacher",
    ),
    Mutation(
        "live teacher under the student's autocast",
        "frozen.py",
        "with torch.autocast(self.device.type, enabled=False):",
        "if True:",
        "store",
        2,
    ),
    Mutation(
        "weights not in a teacher's name",
        "teacher.py",
        'named | {"weights": weights_digest(self.directory)}',
        "named",
        "teacher",
    ),
    Mutation(
        "disjoint teacher reads the student's tokens",
        "teacher.py",
        '"disjoint": "teacher"',
        '"disjoint": "student"',
        "teacher",
    ),
    # ---- models and cost ----
    Mutation(
        "attention crosses documents",
        "models.py",
        "allowed_BLL = same_BLL & causal_LL",
        "allowed_BLL = causal_LL.expand_as(same_BLL)",
        "models_cost",
    ),
    Mutation(
        "positions do not start anew",
        "models.py",
        "        position_ids=position_BL,\n",
        "",
        "models_cost",
    ),
    Mutation(
        "soft cap ignored", "models.py", "if self.softcap is not None:", "if False:", "models_cost"
    ),
    Mutation(
        "weights from the global generator",
        "models.py",
        "torch.manual_seed(seed)",
        "torch.rand(1)",
        "models_cost",
    ),
    Mutation(
        "grouped heads counted as full",
        "cost.py",
        "kv_size = self.hidden_size // self.num_heads * self.num_kv_heads",
        "kv_size = self.hidden_size",
        "models_cost",
    ),
    Mutation(
        "attention over half the square",
        "cost.py",
        "attention = 4 * seq_len * self.hidden_size * self.num_layers",
        "attention = 2 * seq_len * self.hidden_size * self.num_layers",
        "models_cost",
    ),
    Mutation(
        "tied embeddings counted twice",
        "cost.py",
        "(1 if self.tie_embeddings else 2)",
        "2",
        "models_cost",
    ),
    # ---- evaluation ----
    Mutation(
        "evaluation ignores the mask",
        "evaluate.py",
        "nats += loss_C[mask_N[part]].sum().double()",
        "nats += loss_C.sum().double()",
        "evaluate",
    ),
    Mutation(
        "nats per byte",
        "evaluate.py",
        "float(nats) / math.log(2) / num_bytes",
        "float(nats) / num_bytes",
        "evaluate",
    ),
    Mutation(
        "evaluation's KL reversed",
        "evaluate.py",
        "teacher_CV.exp(), teacher_CV - student_CV)",
        "student_CV.exp(), student_CV - teacher_CV)",
        "evaluate",
    ),
    Mutation(
        "agreement with the target, not the teacher",
        "evaluate.py",
        "(top_C == argmax(teacher_CV)[mask_C]).sum()",
        "(top_C == targets_N[part][mask_C]).sum()",
        "evaluate",
    ),
    Mutation(
        "signed calibration error",
        "bins.py",
        "(confidence - right).abs().sum()",
        "(confidence - right).sum().abs()",
        "evaluate",
    ),
    Mutation(
        "every batch compared with the teacher's first",
        "evaluate.py",
        "self.hidden_BLD[start:stop]",
        "self.hidden_BLD[: stop - start]",
        "evaluate",
    ),
    Mutation(
        "student left in evaluation mode",
        "evaluate.py",
        "    model.train()\n    ranks.add(nats)\n",
        "    ranks.add(nats)\n",
        "evaluate",
    ),
    Mutation(
        "positions without a target are compared",
        "evaluate.py",
        "kl += kl_C[mask_C].double().sum()",
        "kl += kl_C.double().sum()",
        "evaluate",
    ),
    # ---- config ----
    Mutation(
        "controls depend on the signal",
        "config.py",
        "        if self.loss.needs_teacher:\n            read +=",
        "        if True:\n            read +=",
        "config",
    ),
    Mutation(
        "version not in the hash",
        "config.py",
        '"version": cls.version}',
        '"version": 1}',
        "config",
    ),
    Mutation(
        "any package may be named", "build.py", 'not in {"pdx", *packages}', "in {None}", "config"
    ),
    Mutation(
        "unknown keys ignored",
        "build.py",
        "        if name not in known:\n            raise",
        "        if False:\n            raise",
        "config",
    ),
    Mutation(
        "open signals accepted",
        "checks.py",
        "if run.loss.needs_closed_signal and not run.signal.closed:",
        "if False:",
        "config",
    ),
    # ---- baselines ----
    Mutation(
        "placebo shifts the true tokens too",
        "feed.py",
        "targets_N=batch.targets_BL.reshape(-1),",
        "targets_N=batch.targets_BL.roll(routing.shift, -1).reshape(-1),",
        "routing",
    ),
    Mutation(
        "placebo draws at another place than the teacher's",
        "feed.py",
        "offset_N = offsets.roll(routing.shift, -1)",
        "offset_N = offsets",
        "routing",
    ),
    Mutation(
        "label smoothing without its share of the text",
        "reduce.py",
        "share_C = mask_C * (1 - kd_weight * taught_C.to(student.dtype))",
        "share_C = mask_C.to(student.dtype)",
        "losses",
    ),
    Mutation(
        "sampled text from the wrong place's draws",
        "texts/teacher_samples.py",
        "draw(logits_BV / self.temperature, offset_B + place, 1, self.seed)",
        "draw(logits_BV / self.temperature, offset_B, 1, self.seed)",
        "texts",
    ),
    Mutation(
        "the least different windows are kept",
        "texts/selected.py",
        "order = np.argsort(weak - teacher",
        "order = np.argsort(teacher - weak",
        "texts",
    ),
    Mutation(
        "masked targets count in a score",
        "texts/selected.py",
        "torch.where(batch.mask_BL, -nats_N.view_as(batch.mask_BL).double(), 0.0)",
        "-nats_N.view_as(batch.mask_BL).double()",
        "texts",
    ),
    # ---- recording ----
    Mutation(
        "a part is read from the beginning of the recording",
        "shared.py",
        "store.first_window = first",
        "store.first_window = 0",
        "recorded",
    ),
    Mutation(
        "recording hears the gradient",
        "reduce.py",
        """        if hear is not None:
            hear(start, stop, logits_CV)
        student = Chunk(logits_CV, targets_N[start:stop])
""",
        """        student = Chunk(logits_CV, targets_N[start:stop])
        logits_CV.softmax(-1, out=logits_CV) if hear is not None else None
        if hear is not None:
            hear(start, stop, logits_CV)
""",
        "recorded",
    ),
    Mutation(
        "tokens outside of the recorded part not refused",
        "store/kept.py",
        "if not self.recorded[0] <= start < end <= self.recorded[1]:",
        "if False:",
        "recorded",
    ),
    # ---- hidden states ----
    Mutation(
        "hidden states' gradient forgotten",
        "reduce.py",
        "total = total + beside",
        "total = total + beside.detach()",
        "hidden",
    ),
    Mutation(
        "projections not saved",
        "train.py",
        'matcher.load_state_dict(state["matcher"])',
        "pass",
        "hidden",
    ),
    Mutation(
        "masked positions are matched",
        "hiddens/matched.py",
        "torch.where(mask_BL, apart_BL, 0.0).sum()",
        "apart_BL.sum()",
        "hidden",
    ),
    # ---- fits ----
    Mutation(
        "the distillation law's gradient by kappa has the wrong sign",
        "analysis/laws/distillation.py",
        "jacobian[:, 6] *= -left",
        "jacobian[:, 6] *= left",
        "laws",
    ),
    Mutation(
        "the gamma law's gradient lacks gamma's own term",
        "analysis/laws/chinchilla.py",
        "jacobian[:, 4] = log_sum\n",
        "jacobian[:, 4] = 0.0\n",
        "laws",
    ),
    Mutation(
        "repetitions lose the term that effective N owes to the optimum",
        "analysis/laws/data_constrained.py",
        "moved = -alpha * share_N * np.where(excess, 1.0 - by_excess, 0.0)",
        "moved = 0.0 * share_N",
        "laws",
    ),
    Mutation(
        "the valley of gamma is left",
        "analysis/laws/chinchilla.py",
        "step[:, others] *= (at / (at + step[:, gamma]))[:, None]",
        "step[:, others] *= 1.0",
        "laws",
    ),
    Mutation(
        "huber is lad",
        "analysis/fitting/objectives.py",
        'return {"huber": self.delta, "lad": SHARP}.get(self.kind, np.inf)',
        'return {"huber": SHARP, "lad": SHARP}.get(self.kind, np.inf)',
        "laws",
    ),
    Mutation(
        "lad is huber",
        "analysis/fitting/objectives.py",
        'return {"huber": self.delta, "lad": SHARP}.get(self.kind, np.inf)',
        'return {"huber": self.delta, "lad": self.delta}.get(self.kind, np.inf)',
        "laws",
    ),
    Mutation(
        "weights ignored",
        "analysis/fitting/fit.py",
        "solve(problem, starts, np.tile(w, (len(starts), 1)), WIDE)",
        "solve(problem, starts, np.ones((len(starts), len(w))), WIDE)",
        "laws",
    ),
    Mutation(
        "weights ignored in resamples",
        "analysis/fitting/bootstrap.py",
        "felt = counts * w",
        "felt = counts",
        "laws",
    ),
    Mutation(
        "resamples drawn without replacement",
        "analysis/fitting/bootstrap.py",
        "drawn = rng.integers(self.num_runs, size=(num, self.num_runs))",
        "drawn = rng.permuted(np.tile(np.arange(self.num_runs), (num, 1)), axis=1)",
        "laws",
    ),
    Mutation(
        "checkpoints resampled as if they were runs",
        "analysis/fitting/bootstrap.py",
        "names = np.arange(len(points)) if runs is None else np.asarray(runs)",
        "names = np.arange(len(points))",
        "laws",
    ),
    Mutation(
        "every interval at 95%",
        "analysis/fitting/bootstrap.py",
        "tail = 50 * (1 - level)",
        "tail = 2.5",
        "laws",
    ),
    Mutation(
        "AICc without its correction for few points",
        "analysis/fitting/fitted.py",
        "return spread + 2 * free + 2 * free * (free + 1) / (num - free - 1)",
        "return spread + 2 * free",
        "laws",
    ),
    Mutation(
        "the variance is not counted by AICc",
        "analysis/fitting/fitted.py",
        "num, free = self.num_points, self.num_free + 1",
        "num, free = self.num_points, self.num_free",
        "laws",
    ),
    Mutation(
        "held-out points are fitted too",
        "analysis/scaling/points.py",
        "return points.where(~out), points.where(out), warnings",
        "return points, points.where(out), warnings",
        "fit",
    ),
    Mutation(
        "folds are fitted on what they test",
        "analysis/fitting/validate.py",
        "found = fitter(law, kept, loss[~out], weights[~out])",
        "found = fitter(law, columns, loss, weights)",
        "laws",
    ),
    Mutation(
        "folds split runs",
        "analysis/fitting/validate.py",
        "return fold[run.reshape(-1)]",
        "return np.arange(len(runs)) % num_folds",
        "laws",
    ),
    Mutation(
        "the exponents of allocation swapped",
        "analysis/scaling/allocation.py",
        "a, b = beta / (alpha + beta), alpha / (alpha + beta)",
        "b, a = beta / (alpha + beta), alpha / (alpha + beta)",
        "laws",
    ),
    Mutation(
        "levels counted by rows",
        "analysis/fitting/levels.py",
        "if not found or value > found[-1] * (1 + SAME):",
        "if True:",
        "laws",
    ),
    Mutation(
        "E may be negative",
        "analysis/laws/chinchilla.py",
        "return box(self, E=(0.0, float(loss.min())))",
        "return box(self, E=(-5.0, float(loss.min())))",
        "laws",
    ),
    Mutation(
        "a profile that does not close is no doubt",
        "analysis/fitting/fit.py",
        "if n in profiles and is_flat(problem, theta, n, profiles[n])",
        "if False",
        "laws",
    ),
    Mutation(
        "the spread of resamples is no doubt",
        "analysis/fitting/bootstrap.py",
        "if n not in known]",
        "if False]",
        "laws",
    ),
    Mutation(
        "a parabola's minimum may lie anywhere",
        "analysis/scaling/parabolas.py",
        "elif not sizes[1] <= middle * np.exp(bottom) <= sizes[-2]:",
        "elif False:",
        "approaches",
    ),
    Mutation(
        "a parabola's curvature is not tested",
        "analysis/scaling/parabolas.py",
        "elif k2 <= _uncertain(design, y, found):",
        "elif k2 <= 0:",
        "approaches",
    ),
    Mutation(
        "approach 2 reads every checkpoint",
        "analysis/scaling/approaches.py",
        'last = _last(columns["D"], runs)',
        "last = np.arange(len(N))",
        "approaches",
    ),
    Mutation(
        "the envelope steps from size to size",
        "analysis/scaling/envelope.py",
        "np.exp(x[at] + moved)",
        "np.exp(x[at])",
        "approaches",
    ),
    # ---- predictions, questions, reports ----
    Mutation(
        "the law itself is never doubted",
        "analysis/scaling/extrapolation.py",
        "if value > 1 and name",
        "if value > 10 and name",
        "predict",
    ),
    Mutation(
        "a gain is one though its interval holds zero",
        "analysis/predictions/recommend.py",
        "    if low > 0:\n",
        "    if value > 0:\n",
        "predict",
    ),
    Mutation(
        "laws that disagree are no reason",
        "analysis/predictions/recommend.py",
        'reasons.append(f"laws disagree',
        'checks.append(f"laws disagree',
        "predict",
    ),
    Mutation(
        "a rank may hang on the largest size",
        "analysis/predictions/recommend.py",
        "    elif others:\n        said",
        "    elif False:\n        said",
        "predict",
    ),
    Mutation(
        "the control's tokens are the teacher's share alone",
        "analysis/predictions/predict.py",
        "multiple = 1 + extra /",
        "multiple = extra /",
        "predict",
    ),
    Mutation(
        "teacher inference of the sweep's tokens",
        "analysis/predictions/predict.py",
        'per_token("flops_teacher_inference_exact") * tokens',
        'per_token("flops_teacher_inference_exact")',
        "predict",
    ),
    Mutation(
        "pairs of any seed",
        "analysis/questions/gains.py",
        'keys = [SIZE_NAME, "num_tokens", "seed"]',
        'keys = [SIZE_NAME, "num_tokens"]',
        "predict",
    ),
    Mutation(
        "a crossing by the delta method",
        "analysis/questions/gains.py",
        "two = b**2 - reach**2 * cover[1, 1]",
        "two = b**2",
        "predict",
    ),
    Mutation(
        "what chance gives to a setting counted for it",
        "analysis/questions/importance.py",
        "(left - whole - (rank - fewer) * mean_square)",
        "(left - whole)",
        "report_any",
    ),
    Mutation(
        "a law of as many parameters as settings trusted",
        "analysis/predictions/forecast.py",
        "elif settings <= found.num_free:",
        "elif settings < 0:",
        "predict",
    ),
    Mutation(
        "an interval of the mean, not of one more run",
        "analysis/predictions/forecast.py",
        "for values in (moved + noise, moved)",
        "for values in (moved, moved)",
        "predict",
    ),
    Mutation(
        "two teachers taken for one",
        "analysis/predictions/finished.py",
        "if teacher is None and len(names) > 1:",
        "if teacher is None and len(names) > 2:",
        "predict",
    ),
    Mutation(
        "another teacher on table 6's students",
        "analysis/predictions/forecast.py",
        "law = supervised_by(law, untaught)",
        "law = law_named(name)",
        "predict",
    ),
    Mutation(
        "a text that a teacher made is a control",
        "analysis/runs/labels.py",
        '(loss == "none" and _is_corpus(points[run_id]))',
        '(loss == "none")',
        "analysis",
    ),
    Mutation(
        "an unrecorded teacher is free",
        "analysis/runs/accounting.py",
        "~(cost > 0), np.nan)",
        "~(cost > 0), 0.0)",
        "analysis",
    ),
    Mutation(
        "worth beyond what the control was given",
        "analysis/questions/multiplier.py",
        "if loss < losses[-1]:",
        "if False:",
        "distillation_questions",
    ),
    Mutation(
        "a gap of any curvature",
        "analysis/questions/teachers.py",
        "if found[2] <= needed:",
        "if found[2] <= 0:",
        "distillation_questions",
    ),
    Mutation(
        "teachers over the budget",
        "analysis/questions/teachers.py",
        "inside = taught[(totals <= most) | (not accounting.charges)]",
        "inside = taught",
        "distillation_questions",
    ),
    Mutation(
        "students of all sizes in one trend",
        "analysis/questions/gain_trends.py",
        'fixed=("recipe", SIZE_NAME, "num_tokens"),',
        'fixed=("recipe",),',
        "distillation_questions",
        2,
    ),
    Mutation(
        "a split that forgets inference",
        "analysis/scaling/split.py",
        "per_token = 6 * N + (2 * N_T if charges_inference else 0.0)",
        "per_token = 6 * N",
        "distillation_questions",
    ),
    Mutation(
        "foreign FLOPs by 2ND",
        "analysis/runs/foreign.py",
        'numbers["C"] or (6 * size',
        'numbers["C"] or (2 * size',
        "report_any",
    ),
    Mutation(
        "steps for tokens",
        "analysis/runs/foreign.py",
        "at = seen.get(step) if seen else step",
        "at = step",
        "report_any",
    ),
    Mutation(
        "a front of what is better in both",
        "analysis/figures/search.py",
        "better = (values[None] < values[:, None]).any(-1)",
        "better = (values[None] < values[:, None]).all(-1)",
        "report_any",
    ),
    Mutation(
        "ends of runs doubted as checkpoints",
        "analysis/questions/optimal_size.py",
        "return replace(first, warnings=()), planned",
        "return first, planned",
        "report_any",
    ),
    # ---- verdicts ----
    Mutation(
        "verdicts on val",
        "analysis/questions/cells.py",
        'CHOSEN_ON, JUDGED_ON = "val/loss", "test/loss"',
        'CHOSEN_ON, JUDGED_ON = "val/loss", "val/loss"',
        "verdicts",
    ),
    Mutation(
        "an edge optimum decides",
        "analysis/questions/verdicts.py",
        " or any(cell.at_edge for cell in cells.values())",
        "",
        "verdicts",
    ),
    Mutation(
        "no correction for many claims",
        "analysis/questions/contrasts.py",
        "(len(p_values) - rank) * p_values[index]",
        "p_values[index]",
        "verdicts",
    ),
    Mutation(
        "seeds left in the noise",
        "analysis/questions/contrasts.py",
        "design = np.hstack([settings, pd.get_dummies(pd.Series(blocks)).to_numpy(dtype=float)])",
        "design = settings",
        "verdicts",
    ),
    Mutation(
        "one-sided equivalence",
        "analysis/questions/contrasts.py",
        "return float(max(above, below))",
        "return float(min(above, below))",
        "verdicts",
    ),
]


def pytest(copy: Path, tests: list[str], *options: str) -> subprocess.CompletedProcess[str]:
    """Run test files of the copy, on its own pdx."""
    files = [f"tests/test_{name}.py" for name in tests]
    command = [sys.executable, "-m", "pytest", "-q", "--tb=line", "-p", "no:cacheprovider"]
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, *options, *files], cwd=copy, env=environment, capture_output=True, text=True
    )


def main(words: list[str]) -> int:
    """Plant, ask, restore; print a line for each."""
    chosen = [m for m in MUTATIONS if not words or any(word in m.name for word in words)]
    bad = []
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(directory)
        for name in COPIED:
            if (ROOT / name).is_dir():
                shutil.copytree(
                    ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", ".*")
                )
            elif (ROOT / name).exists():
                shutil.copy(ROOT / name, copy / name)
        # installed editable, pdx.analysis is the tree's own folder unless pdx holds one
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "analysis", copy / "pdx" / "analysis", ignore=ignored)
        where = [sys.executable, "-c", "import pdx.analysis; print(pdx.analysis.__file__)"]
        found = subprocess.run(where, cwd=copy, capture_output=True, text=True).stdout
        if not found.startswith(str(copy)):
            print(f"the tests would run on {found.strip()} and not on the copy")
            return 2
        files = sorted({test for m in chosen for test in m.tests.split()})
        clean = pytest(copy, files)
        print(
            f"without a bug, {' '.join(files)}: {clean.stdout.strip().splitlines()[-1]}", flush=True
        )
        if clean.returncode != 0:
            return 2
        for mutation in chosen:
            path = copy / "pdx" / mutation.file
            source = path.read_text()
            if source.count(mutation.old) != mutation.times:
                count = source.count(mutation.old)
                line = f"NOT FOUND  {mutation.name}: pdx/{mutation.file} has its text {count} times"
            else:
                began = time.monotonic()
                path.write_text(source.replace(mutation.old, mutation.new))
                asked = pytest(copy, mutation.tests.split(), "-x")
                path.write_text(source)
                failed = re.search(r"^(?:FAILED|ERROR) tests/(\S+)", asked.stdout, re.MULTILINE)
                caught = asked.returncode == TESTS_FAILED and failed is not None
                by = failed[1] if failed else f"pytest exit status {asked.returncode}"
                verdict = "caught" if caught else "SURVIVED"
                line = f"{verdict:10} {mutation.name}: {by} ({time.monotonic() - began:.0f} s)"
            if not line.startswith("caught"):
                bad.append(mutation.name)
            print(line, flush=True)
    print(f"{len(chosen) - len(bad)} of {len(chosen)} caught")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
