"""Downstream tasks of EleutherAI's lm-evaluation-harness, as an evaluation."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pdx.build import check
from pdx.env import Env
from pdx.errors import ConfigError
from pdx.evaluate import Evaluation, Reference
from pdx.files import digest_file
from pdx.ranks import Ranks

if TYPE_CHECKING:
    from pdx.shared import Shared


@dataclass(frozen=True, kw_only=True)
class LmEval(Evaluation):
    """The common numbers, and accuracies of tasks: ``lm_eval/hellaswag/acc`` and so on.

    Needs the extra ``pdx[lm_eval]``. The tasks' data come from the hub, or, of tasks of your own in
    the harness's YAML format, from where these say. Questions are cut at their left to
    ``data.seq_len`` tokens, answers are greedy.

    Attributes:
        tasks: names, each with its number of examples after a colon (``mmlu:6``), or as the task
            says without one.
        include_path: a folder of tasks of your own; its files are part of what a run is.
        limit: questions of each task; null for all.
        All others as in ``pdx.evaluate.Evaluation``.

    Source:
        https://github.com/EleutherAI/lm-evaluation-harness. The tasks of arXiv:2410.16215,
        appendix A.1, with its numbers of examples; its KBQA and C3 are not in the harness, and it
        fine-tunes on instructions first, which pdx does not.
    """

    tasks: list[str]
    include_path: str | None
    limit: int | None

    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        allowed = "must name tasks, each once, such as [hellaswag:0, mmlu:6]"
        check(len(self.shots) == len(self.tasks) > 0, "eval.tasks", self.tasks, allowed)
        check(self.limit is None or self.limit >= 1, "eval.limit", self.limit, "must be >= 1")
        if self.include_path is not None and not Path(self.include_path).is_dir():
            raise ConfigError(
                f"eval.include_path={self.include_path}: is no folder; name one that holds tasks "
                "as *.yaml, or null."
            )

    @property
    def shots(self) -> dict[str, int | None]:
        """Examples by task; None for as many as the task says."""
        found: dict[str, int | None] = {}
        for text in self.tasks:
            name, colon, shots = text.rpartition(":") if ":" in text else (text, "", "")
            allowed = "must end in a whole number after its colon, such as mmlu:6"
            check(not colon or shots.isdigit(), "eval.tasks", text, allowed)
            found[name] = int(shots) if colon else None
        return found

    def identify(self) -> dict[str, Any]:
        """The folder's content in the place of its name."""
        if self.include_path is None:
            return {}
        root = Path(self.include_path)
        files = sorted(p for p in root.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
        return {"include_path": {str(p.relative_to(root)): digest_file(p, 64) for p in files}}

    def ensure(self, env: Env) -> None:
        """Refuse, before anything is trained, a machine without the harness."""
        if importlib.util.find_spec("lm_eval") is None:
            raise ConfigError(
                "eval=lm_eval: the harness is not installed; run pip install 'pdx[lm_eval]', or "
                "use eval=default."
            )
        if env.gpus_per_run > 1:
            raise ConfigError(
                f"env.gpus_per_run={env.gpus_per_run}: eval=lm_eval asks one process; use "
                "env.gpus_per_run=1, or export the student and ask it elsewhere."
            )
        from pdx.harness import manager

        manager(tuple(self.shots), self.include_path)

    def more(
        self, model: Any, shared: "Shared", reference: Reference | None, ranks: Ranks
    ) -> dict[str, float]:
        """What the tasks say of the student."""
        from pdx.harness import Asked, measure

        model.eval()
        token_set = shared.token_set
        asked = Asked(model, token_set.tokenizer(), token_set.seq_len, ranks.device)
        found = measure(asked, self.shots, self.include_path, self.limit)
        model.train()
        return {f"lm_eval/{name}": value for name, value in found.items()}
