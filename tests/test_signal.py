"""The teacher's word: what is kept, what becomes of the rest, and at which temperature."""

import math
from typing import Any

import pytest
import torch
from numerics import SIGNALS, VOCAB, Said, component, context, labels, logits, spell, word

from pdx.errors import ConfigError
from pdx.rows import LEAST, Rows
from pdx.sparse import SparseSignal

SPARSE = sorted(name for name, signal in SIGNALS.items() if signal.stored)


def servable(said: Any) -> bool:
    """Whether rows with the logsumexp at some temperatures can be read so."""
    return None not in said.needed_temperatures(said.heat)


SERVED = sorted(name for name in SPARSE if servable(SIGNALS[name]) and name != "conf/topp")


def rows_of(teacher_NV: torch.Tensor, top_k: int) -> Rows:
    """As a store has them."""
    return Rows.of(teacher_NV, top_k, (0.25, 0.5, 1.0, 2.0), spread=True)


def test_rows_are_the_largest_logits_and_the_normaliser_of_all():
    logits_NV = logits(0)
    rows = Rows.of(logits_NV, 4, (0.5, 1.0, 3.0))
    assert rows.ids_NK.shape == rows.logits_NK.shape == (6, 4)
    for n, row in enumerate(logits_NV.tolist()):
        order = sorted(range(VOCAB), key=lambda v, row=row: -row[v])[:4]
        assert rows.ids_NK[n].tolist() == order
        assert rows.logits_NK[n].tolist() == [row[v] for v in order]
        for heat, lse_N in rows.facts.lse.items():
            wanted = math.log(sum(math.exp(v / heat) for v in row))
            assert float(lse_N[n]) == pytest.approx(wanted, abs=1e-5)


def test_rows_of_half_precision_are_float32():
    rows = Rows.of(logits(0).bfloat16(), 3, (1.0,))
    assert rows.logits_NK.dtype == rows.facts.lse[1.0].dtype == torch.float32
    assert torch.equal(rows.facts.lse[1.0], logits(0).bfloat16().float().logsumexp(-1))


def test_rows_hold_at_most_the_vocabulary():
    assert Rows.of(logits(0), 99, (1.0,)).ids_NK.shape == (6, VOCAB)


@pytest.mark.parametrize(
    ("top_p", "top_k", "kept"),
    [
        (0.35, 4, 1),
        (0.45, 4, 2),
        (0.65, 4, 2),
        (0.75, 4, 3),
        (0.85, 4, 3),
        (0.95, 4, 4),
        (1.0, 4, 4),
        (0.95, 2, 2),
        (0.35, 2, 1),
        (0.01, 1, 1),
    ],
)
def test_top_p_keeps_the_smallest_set_that_holds_p(top_p: float, top_k: int, kept: int):
    probs_V = torch.tensor([0.2, 0.4, 0.1, 0.3])
    signal = component("signal", "topp_topk", top_p=top_p, top_k=top_k)
    keep_1K = signal.keep(Rows.of(probs_V.log()[None] + 3.0, 4, (1.0,)))
    assert keep_1K.tolist() == [[i < kept for i in range(4)]]


def test_top_p_is_of_mass_at_temperature_one():
    """A temperature of 10 flattens the teacher and must not change which tokens are kept."""
    row = torch.tensor([[0.0, -1.0, -2.0, -8.0]])
    for heat in (0.1, 1.0, 10.0):
        warm = component("temperature", "constant", value=heat)
        signal = component("signal", "topp_topk", top_p=0.8, top_k=4)
        sparse = word(Said(signal, warm), row).chunk(0, 1)
        assert sparse.keep_NK.tolist() == [[True, True, False, False]]


@pytest.mark.parametrize("of", sorted(SIGNALS))
@pytest.mark.parametrize("top_p", [0.5, 0.95])
def test_alignment_is_its_definition(of: str, top_p: float):
    """Both sides on the support, entry by entry; what is dropped carries no mass."""
    signal = SIGNALS[of]
    if hasattr(signal.signal, "top_p"):
        signal = signal.but(top_p=top_p)
    teacher_NV, student_NV = logits(1), logits(2)
    teacher_NS, student_NS = word(signal, teacher_NV).align(student_NV)
    assert teacher_NS.dtype == student_NS.dtype == torch.float32
    for n, (t, s) in enumerate(zip(teacher_NV.tolist(), student_NV.tolist(), strict=True)):
        spelled = spell(signal, t, s, int(labels(6)[n]))
        kept_S = teacher_NS[n] != LEAST
        # In probabilities for the teacher: the log of a tail of 1e-4 is known to 1e-2 only.
        found = zip(
            student_NS[n][kept_S].tolist(), teacher_NS[n][kept_S].exp().tolist(), strict=True
        )
        wanted = zip(spelled.student, [math.exp(p) for p in spelled.teacher], strict=True)
        for pair, expected in zip(sorted(found), sorted(wanted), strict=True):
            assert pair[0] == pytest.approx(expected[0], abs=2e-5)
            assert pair[1] == pytest.approx(expected[1], abs=2e-6)
        assert (student_NS[n][~kept_S] == LEAST).all()  # next to nothing, on both sides


@pytest.mark.parametrize("of", sorted(SIGNALS))
def test_a_closed_signal_sums_to_one_on_both_sides_and_an_open_one_does_not(of: str):
    signal = SIGNALS[of]
    teacher_NS, student_NS = word(signal, logits(3)).align(logits(4))
    teacher_N, student_N = teacher_NS.exp().sum(-1), student_NS.exp().sum(-1)
    if getattr(signal.signal, "tail", None) == "drop":
        assert (teacher_N < 1 - 1e-5).all()
    else:
        torch.testing.assert_close(teacher_N, torch.ones(6))
    if signal.closed:
        torch.testing.assert_close(student_N, torch.ones(6))
    else:
        assert (student_N < 1 - 1e-3).all()


@pytest.mark.parametrize("heat", [0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("both", [True, False])
def test_renormalize_truncates_then_tempers_then_renormalises_the_teacher_alone(
    heat: float, both: bool
):
    """Our reading of arXiv:2410.16215, Eq. 4: the student keeps its full softmax."""
    warm = component("temperature", "constant", value=heat, temper_student=both)
    signal = Said(component("signal", "topk", top_k=3, tail="renormalize"), warm)
    teacher_NV, student_NV = logits(5).double(), logits(6).double()
    teacher_NS, student_NS = word(signal, teacher_NV).align(student_NV)
    top = teacher_NV.topk(3)
    student_heat = heat if both else 1.0
    wanted = (student_NV / student_heat).softmax(-1).gather(-1, top.indices)
    torch.testing.assert_close(
        teacher_NS.exp(), (top.values / heat).softmax(-1), rtol=1e-5, atol=1e-7
    )
    torch.testing.assert_close(student_NS.exp(), wanted, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("heat", [0.5, 2.0])
def test_bucket_holds_the_rest_mass_at_its_own_temperature(heat: float):
    warm = component("temperature", "constant", value=heat)
    signal = Said(component("signal", "topk", top_k=2, tail="bucket"), warm)
    teacher_NV = logits(7).double()
    teacher_NS, _ = word(signal, teacher_NV).align(logits(8).double())
    probs_NV = (teacher_NV / heat).softmax(-1).sort(-1, descending=True).values
    torch.testing.assert_close(
        teacher_NS[:, -1].exp(), probs_NV[:, 2:].sum(-1), rtol=1e-4, atol=1e-6
    )


def test_the_bucket_is_empty_where_nothing_is_cut():
    for top_k, nothing in ((VOCAB - 1, False), (VOCAB, True), (VOCAB + 9, True)):
        signal = component("signal", "topk", top_k=top_k, tail="bucket")
        for side_NS in word(signal, logits(9)).align(logits(10)):
            assert side_NS.shape == (6, min(top_k, VOCAB) + 1)
            assert bool((side_NS[:, -1] == LEAST).all()) == nothing


def test_teacher_gets_no_gradient():
    teacher_NV = logits(11).requires_grad_()
    for of in ("full-t2_both", "topk-bucket-t2_both", "topp-renormalize-t2"):
        teacher_NS, student_NS = word(SIGNALS[of], teacher_NV).align(logits(12).requires_grad_())
        assert not teacher_NS.requires_grad and student_NS.requires_grad


@pytest.mark.parametrize("of", sorted(SIGNALS))
@pytest.mark.parametrize("live", [True, False])
@pytest.mark.parametrize(("start", "stop"), [(0, 2), (2, 6), (5, 6)])
def test_a_chunk_is_those_positions(of: str, live: bool, start: int, stop: int):
    teacher_NV, student_NV = logits(13), logits(14)
    whole = word(SIGNALS[of], teacher_NV)
    if not live:
        whole = whole.chunk(0, 6)  # rows, as a store gives them
    part = whole.chunk(start, stop)
    scales = [torch.as_tensor(x.scale).expand(n) for x, n in ((part, stop - start), (whole, 6))]
    torch.testing.assert_close(scales[0], scales[1][start:stop])
    for method in ("align", "kept_logits"):
        found = getattr(part, method)(student_NV[start:stop])
        wanted = getattr(whole, method)(student_NV)
        for a, b in zip(found, wanted, strict=True):
            # a chunk may sum in another order
            wanted_CS = b[start:stop, : a.shape[1]]  # and may have no row as wide as the widest
            torch.testing.assert_close(a, wanted_CS, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("of", SERVED)
def test_a_live_teacher_says_what_its_rows_say(of: str):
    """Wider rows, as a store keeps them, serve a smaller K exactly."""
    signal, teacher_NV, student_NV = SIGNALS[of], logits(15), logits(16)
    stored = signal.sparse(rows_of(teacher_NV, 9), context(signal, 6))
    assert isinstance(stored, SparseSignal)
    live = word(signal, teacher_NV)
    assert stored.ids_NK.shape[1] == live.chunk(0, 6).ids_NK.shape[1] < 9
    assert torch.equal(torch.as_tensor(stored.scale), torch.as_tensor(live.scale))
    for method in ("align", "kept_logits"):
        for a, b in zip(
            getattr(stored, method)(student_NV), getattr(live, method)(student_NV), strict=True
        ):
            # the mass outside a row is a difference of float32 numbers: known to 1e-6
            torch.testing.assert_close(a.double().exp(), b.double().exp(), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("of", sorted(SIGNALS))
def test_scale_is_its_definition(of: str):
    """The square of the temperature where both sides are tempered; a weight where it is one."""
    teacher_NV, student_NV = logits(0), logits(1)
    rows = zip(teacher_NV.tolist(), student_NV.tolist(), strict=True)
    wanted = torch.tensor([spell(SIGNALS[of], t, s, 0).scale for t, s in rows])
    found = torch.as_tensor(word(SIGNALS[of], teacher_NV).scale)
    torch.testing.assert_close(found.expand(6), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("value", "changes", "message"),
    [
        ("topk", {"top_k": 0}, r"signal.top_k=0: must be at least 1."),
        (
            "topk",
            {"tail": "missing"},
            r"signal.tail=missing: must be one of renormalize, bucket, to",
        ),
        ("topp_topk", {"top_p": 0.0}, r"signal.top_p=0.0: must lie in \(0, 1\]."),
        ("topp_topk", {"top_p": 1.5}, r"signal.top_p=1.5: must lie in \(0, 1\]."),
        ("topp_topk", {"top_k": 0}, r"signal.top_k=0: must be at least 1."),
    ],
)
def test_values_out_of_range(value: str, changes: dict[str, object], message: str):
    with pytest.raises(ConfigError, match=message):
        component("signal", value, **changes)
