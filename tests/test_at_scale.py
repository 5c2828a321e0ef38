"""The papers' size on paper: what `pdx plan` and docs/at-scale.md say against what they report."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pdx.config import run_of
from pdx.cost import kept_bytes, steps_of
from pdx.facts import facts_of
from pdx.paths import conf_dir

TOKENS, VOCAB = 1e11, 150_000
TB, PB = 1e12, 1e15
PAGE = conf_dir().parent / "docs" / "at-scale.md"
PAPER = [
    "data=files",
    "data.tokenizer=bpe",
    "data.vocab_size=151552",
    "data.seq_len=4096",
    "train.num_tokens=100000000000",
    "train.batch_size=2048",
    "student=peng_1p9b",
    "teacher=glm4_9b",
    "store.top_k=100",
    "signal=topp_topk",
    "signal.top_k=100",
]
H100_FLOPS = 0.4 * 989e12  # bf16 dense, at 40 % of its peak


@pytest.fixture
def facts(compose_cfg: Callable[..., Any], tmp_path: Path) -> dict[str, Any]:
    """The facts of one run at the papers' size, as `pdx plan` has them; the corpus is a line."""
    (tmp_path / "corpus.txt").write_text("One line stands for a hundred billion tokens.\n")
    paths = [f"data.paths=[{tmp_path / 'corpus.txt'}]", f"env.outputs={tmp_path / 'out'}"]
    return facts_of(*run_of(compose_cfg(*PAPER, *paths)))


def test_the_published_storage():
    """arXiv:2410.16215, 3.1 (full and top-p-k); arXiv:2503.16870 (sampled, and top-300)."""
    full = kept_bytes(TOKENS, VOCAB, 4)
    assert full / (1024 * TB) == pytest.approx(58.6, abs=0.05), "its PB are 1024 TB"
    # 37 kept by its figure 2; values alone, no ids: with them it would be 30 TB.
    truncated = kept_bytes(TOKENS, 37.5, 4)
    assert truncated == pytest.approx(15 * TB)
    assert full / truncated == pytest.approx(4000, rel=0.01)
    # 50 draws are about 12 distinct tokens: 17 bits of id and 7 of count.
    assert kept_bytes(TOKENS, 12, (17 + 7) / 8) == pytest.approx(3.6 * TB)
    assert kept_bytes(TOKENS, 300, 3) == pytest.approx(90 * TB)


def test_the_plan_has_the_papers_run(facts: dict[str, Any]):
    assert facts["num_steps"] == steps_of(int(TOKENS), 2048 * 4096) == 11_920  # whole steps
    assert facts["num_params_total"] == pytest.approx(1.867e9, rel=1e-3)
    assert facts["teacher_num_params_non_embedding"] == pytest.approx(8.16e9, rel=5e-3)


def test_a_planned_store_lies_between_values_alone_and_plain_pairs(facts: dict[str, Any]):
    """The paper's 15 TB are 37.5 values of 4 bytes a token; a float and an id for each of 100 are
    the most that a store of this truncation has reason to take, beside a few sums.
    """
    tokens = facts["num_unique_tokens"]
    sums = 4 * 8
    assert tokens == pytest.approx(TOKENS, rel=1e-3)
    assert kept_bytes(tokens, 37.5, 4) < facts["store_bytes"] <= tokens * (100 * 8 + sums)


def test_a_planned_store_of_draws_is_about_as_large_as_the_published_one(
    compose_cfg: Callable[..., Any], tmp_path: Path
):
    """arXiv:2503.16870: 3.6 TB, of 12 distinct tokens in 50 draws at 3 bytes; ours has sums too."""
    (tmp_path / "corpus.txt").write_text("One line stands for a hundred billion tokens.\n")
    paths = [f"data.paths=[{tmp_path / 'corpus.txt'}]", f"env.outputs={tmp_path / 'out'}"]
    kept = [o for o in PAPER if not o.startswith(("store", "signal"))]
    drawn = [*kept, "store=sampled", "signal=sampled", "store.num_draws=50", "signal.num_draws=50"]
    facts = facts_of(*run_of(compose_cfg(*drawn, *paths)))
    sums = 4 * 8
    assert abs(facts["store_bytes"] - 3.6 * TB) <= facts["num_unique_tokens"] * sums
    said = f"whose sums are its own, {facts['store_bytes'] / TB:.1f} TB"
    assert said in " ".join(PAGE.read_text().split())


def test_the_page_says_what_the_cost_model_says(facts: dict[str, Any]):
    page = PAGE.read_text()
    student, teacher = facts["flops_train_exact"], facts["flops_teacher_inference_exact"]
    said = {
        "student": f"| one student | {student:.1e} | {hours(student)} |",
        "capture": f"| capture, once | {teacher:.1e} | {hours(teacher)} |",
        "grid": f"| 12 students, one store | {12 * student + teacher:.1e} "
        f"| {hours(12 * student + teacher)} |",
        "live": f"| 12 students, live teacher | {12 * (student + teacher):.1e} "
        f"| {hours(12 * (student + teacher))} |",
        "full": f"| {kept_bytes(TOKENS, VOCAB, 4) / TB:,.0f} TB |",
        "topp": f"| {kept_bytes(TOKENS, 37.5, 4) / TB:,.0f} TB |",
        "sampled": f"| {kept_bytes(TOKENS, 12, 3) / TB:,.1f} TB |",
        "rate": f"{H100_FLOPS / (student / facts['num_tokens']) / 1e3:.0f}k tokens a second",
    }
    for name, text in said.items():
        assert text in page, f"{name}: docs/at-scale.md should say {text!r}"


def hours(flops: float) -> str:
    return f"{flops / H100_FLOPS / 3600:,.0f}"
