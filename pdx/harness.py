"""A student as EleutherAI's lm-evaluation-harness asks a model; imports it, so imported late."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from lm_eval.api.model import TemplateLM
from lm_eval.evaluator import simple_evaluate
from lm_eval.tasks import TaskManager
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from torch import Tensor

from pdx.errors import ConfigError
from pdx.models import head_of, hidden_states

BATCH_TOKENS = 8192
MOST_GENERATED = 256  # tokens of an answer, where a task does not say


class Asked(TemplateLM):
    """A student, its tokenizer and the length it was trained at, which no question may exceed."""

    def __init__(self, model: Any, tokenizer: Any, max_length: int, device: torch.device) -> None:
        super().__init__()
        self.model, self.tokenizer, self.max_length = model, tokenizer, max_length
        self._device, self.head = device, head_of(model)

    @property
    def eot_token_id(self) -> int:
        return int(self.tokenizer.eos_token_id)

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        return self.tokenizer.encode(string, add_special_tokens=False)

    @torch.no_grad()
    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[Any, list[int], list[int]]],
        disable_tqdm: bool = False,
        **kwargs: Any,
    ) -> list[tuple[float, bool]]:
        """Log-probability of each continuation, and whether it is what greedy decoding says.

        The context is cut at its left to what the student was trained to read.
        """
        found: dict[int, tuple[float, bool]] = {}
        order = sorted(range(len(requests)), key=lambda i: -len(requests[i][1] + requests[i][2]))
        size = max(1, BATCH_TOKENS // self.max_length)
        for first in range(0, len(order), size):
            part = order[first : first + size]
            rows = [(requests[i][1] + requests[i][2])[-self.max_length - 1 :] for i in part]
            for row, (_, _, answer) in zip(rows, (requests[i] for i in part), strict=True):
                if len(answer) >= len(row) and len(answer) > self.max_length:
                    raise ConfigError(
                        f"eval.tasks: an answer has {len(answer)} tokens and a window holds "
                        f"{self.max_length}; use tasks of shorter answers, or raise data.seq_len."
                    )
            longest = max(len(row) for row in rows) - 1
            tokens_BL = torch.zeros(len(rows), longest, dtype=torch.long)
            for at, row in enumerate(rows):  # padded at the right, where nothing looks
                tokens_BL[at, : len(row) - 1] = torch.tensor(row[:-1])
            hidden_BLD = hidden_states(self.model, tokens_BL.to(self._device))
            for at, (i, row) in enumerate(zip(part, rows, strict=True)):
                answer = requests[i][2]
                stop = len(row) - 1
                found[i] = self._score(hidden_BLD[at, stop - len(answer) : stop], answer)
        return [found[i] for i in range(len(requests))]

    def _score(self, hidden_ND: Tensor, answer: list[int]) -> tuple[float, bool]:
        logprobs_NV = self.head(hidden_ND).float().log_softmax(-1)
        ids_N = torch.tensor(answer, device=self._device)
        nats = logprobs_NV.gather(-1, ids_N[:, None]).sum()
        return float(nats), bool((logprobs_NV.argmax(-1) == ids_N).all())

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
        """Log-probability of whole texts, each token told once."""
        found = []
        for request in requests:
            ids = self.tok_encode(request.args[0])
            pairs = get_rolling_token_windows(ids, self.eot_token_id, self.max_length, 1)
            asked = [(None, *make_disjoint_window(pair)) for pair in pairs]
            found.append(sum(nats for nats, _ in self._loglikelihood_tokens(asked)))
        return found

    @torch.no_grad()
    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
        """Greedy answers, each up to the first of its task's ends."""
        found = []
        for request in requests:
            context, given = request.args
            if given.get("do_sample") and given.get("temperature", 1.0) > 0:
                raise ConfigError(
                    f"eval.tasks: {request.task_name} draws its answers; answers are greedy here: "
                    "use a task that says do_sample: false."
                )
            most = min(int(given.get("max_gen_toks", MOST_GENERATED)), self.max_length - 1)
            ids = self.tok_encode(context)[-(self.max_length - most) :] or [self.eot_token_id]
            asked_BL = torch.tensor([ids], device=self._device)
            said_BL = self.model.generate(
                asked_BL,
                attention_mask=torch.ones_like(asked_BL),
                max_new_tokens=most,
                do_sample=False,
                eos_token_id=self.eot_token_id,
                pad_token_id=self.eot_token_id,
            )
            text = self.tokenizer.decode(said_BL[0, len(ids) :], skip_special_tokens=True)
            ends = given.get("until") or []
            for end in [ends] if isinstance(ends, str) else ends:
                text = text.split(end)[0] if end else text
            found.append(text)
        return found


@lru_cache(maxsize=1)  # reading the harness's own thousands takes seconds
def manager(tasks: tuple[str, ...], include_path: str | None) -> TaskManager:
    """Finds tasks by name: those of a folder alone where they are enough, which is quick.

    Raises:
        ConfigError: a task that is neither in the folder nor in the harness.
    """
    if include_path is not None:
        own = TaskManager(include_path=include_path, include_defaults=False)
        if {*tasks} <= {*own.all_tasks}:
            return own
    every = TaskManager(include_path=include_path)
    if unknown := [task for task in tasks if task not in every.all_tasks]:
        raise ConfigError(
            f"eval.tasks: {', '.join(unknown)} is no task of the harness or of "
            f"eval.include_path={include_path}; `lm-eval ls tasks` lists them."
        )
    return every


def measure(
    model: Asked, tasks: dict[str, int | None], include_path: str | None, limit: int | None
) -> dict[str, float]:
    """Every metric of every task, as ``task/metric``; a filter other than ``none`` beside it."""
    found, known = {}, manager(tuple(tasks), include_path)
    for shots in dict.fromkeys(tasks.values()):
        names = [task for task, wanted in tasks.items() if wanted == shots]
        said: Any = simple_evaluate(
            model=model,
            tasks=list(names),
            num_fewshot=shots,
            limit=limit,
            bootstrap_iters=0,
            log_samples=False,
            task_manager=known,
        )
        for task in names:
            for key, value in said["results"][task].items():
                metric, _, chosen = key.partition(",")
                if isinstance(value, int | float) and not metric.endswith("_stderr") and chosen:
                    suffix = "" if chosen == "none" else f"_{chosen}"
                    found[f"{task}/{metric}{suffix}"] = float(value)
    return found
