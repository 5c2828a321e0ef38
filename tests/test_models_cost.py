"""Models are what their files say, and cost what pdx.cost says."""

import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from numerics import component, values
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pdx import paths
from pdx.cost import steps_of
from pdx.errors import ConfigError
from pdx.models import Llama, head_of, hidden_states

# arXiv:2410.16215, Table 7 at V=151,552 with a gated feed-forward layer, in millions.
PENG = {"peng_330m": 334, "peng_670m": 669, "peng_1p9b": 1867, "peng_3p8b": 3750, "peng_6p8b": 6820}
STUDENTS = values("student")
LADDER = [name for name in STUDENTS if name not in PENG]


def small(**changes: Any) -> Llama:
    """The smallest student, with weights large enough for every term to matter."""
    return component("student", "s10k", **({"init_std": 0.4} | changes))


def tokens(*shape: int, vocab: int = 32, seed: int = 0) -> Tensor:
    return torch.randint(vocab, shape, generator=torch.Generator().manual_seed(seed))


# ---- parameters ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STUDENTS)
def test_parameter_counts_are_those_of_the_real_model(name: str):
    student, vocab_size = component("student", name), 1000
    shape = student.shape(vocab_size)
    with torch.device("cpu" if shape.num_params_total < 2e6 else "meta"):
        model = student.init(vocab_size, 64, seed=0)
    total = sum(p.numel() for p in model.parameters())
    embeddings = {
        p.data_ptr() if p.device.type == "cpu" else id(p): p.numel()
        for p in (model.get_input_embeddings().weight, model.get_output_embeddings().weight)
    }
    assert shape.num_params_total == total
    assert shape.num_params_non_embedding == total - sum(embeddings.values())
    assert len(embeddings) == (1 if student.tie_embeddings else 2)


@pytest.mark.parametrize(("name", "millions"), sorted(PENG.items()))
def test_the_papers_five_have_the_papers_parameters(name: str, millions: int):
    total = component("student", name).shape(151_552).num_params_total
    assert round(total / 1e6) in (millions, millions + 1)  # the paper's figures are cut or rounded


@pytest.mark.parametrize("name", LADDER)
def test_the_ladder_is_named_by_what_it_holds(name: str):
    count = component("student", name).shape(7).num_params_non_embedding
    number, unit = re.fullmatch(r"s(\d+)([km])", name).groups()  # type: ignore[union-attr]
    assert count == pytest.approx(int(number) * {"k": 1e3, "m": 1e6}[unit], rel=0.2)
    comment = (paths.conf_dir() / "student" / f"{name}.yaml").read_text().splitlines()[0]
    assert f"{count:,} parameters without embeddings" in comment


def test_the_ladder_is_a_ladder():
    counts = sorted(component("student", name).shape(7).num_params_non_embedding for name in LADDER)
    assert sum(count < 4e6 for count in counts) >= 6
    assert all(1.5 < b / a < 4 for a, b in pairwise(counts))


# ---- FLOPs -----------------------------------------------------------------------------------


@pytest.mark.parametrize("tie_embeddings", [True, False])
@pytest.mark.parametrize(("num_heads", "num_kv_heads"), [(4, 4), (4, 2), (4, 1), (1, 1)])
def test_flops_are_those_that_torch_counts(tie_embeddings: bool, num_heads: int, num_kv_heads: int):
    """Every matrix product, attention over the full square; as torch counts the math kernel."""
    student = small(
        hidden_size=32,
        num_layers=3,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        tie_embeddings=tie_embeddings,
    )
    vocab_size, seq_len, num_windows = 48, 16, 3
    shape, num_tokens = student.shape(vocab_size), seq_len * num_windows
    model = student.init(vocab_size, seq_len, seed=0)
    with sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as forward:
            logits = model(tokens(num_windows, seq_len)).logits
        with FlopCounterMode(display=False) as backward:
            logits.sum().backward()
    assert shape.flops_forward_per_token(seq_len) * num_tokens == forward.get_total_flops()
    both = forward.get_total_flops() + backward.get_total_flops()
    assert shape.flops_train_exact(num_tokens, seq_len) == both
    assert shape.flops_train_6nd(num_tokens) == 6 * shape.num_params_non_embedding * num_tokens


def test_sums_of_cost():
    assert [steps_of(n, 512) for n in (511, 512, 1600)] == [0, 1, 3]


# ---- weights and hidden states ---------------------------------------------------------------


def test_weights_come_from_the_seed_alone():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = small().init(32, 16, seed=3).state_dict()
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    again, other = (small().init(32, 16, seed=s).state_dict() for s in (3, 4))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["model.embed_tokens.weight"], other["model.embed_tokens.weight"])
    assert float(first["model.embed_tokens.weight"].std()) == pytest.approx(0.4, rel=0.1)


def test_targets_do_not_leak_into_hidden_states():
    model, window = small().init(32, 16, seed=0), tokens(1, 16)
    changed = window.clone()
    changed[0, 9] = (changed[0, 9] + 1) % 32
    for document in (None, torch.zeros(1, 16, dtype=torch.int64)):
        before, after = (hidden_states(model, w, document)[0] for w in (window, changed))
        assert torch.equal(before[:9], after[:9])
        assert ((before[9:] - after[9:]).abs().amax(-1) > 1e-3).all()


def llama() -> Any:
    return small().init(32, 16, seed=0)


def gpt2() -> Any:
    """Absolute positions: rotary ones look alike wherever a document begins."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    shape: dict[str, Any] = {"n_positions": 16, "n_embd": 16, "n_layer": 2, "n_head": 2}
    ends: dict[str, Any] = {"bos_token_id": None, "eos_token_id": None}
    return GPT2LMHeadModel(GPT2Config(vocab_size=32, initializer_range=0.4, **shape, **ends)).eval()


@pytest.mark.parametrize("family", [llama, gpt2])
def test_attention_does_not_cross_documents_and_positions_start_anew(family: Callable[[], Any]):
    model, window = family(), tokens(2, 16, seed=1)
    document = torch.tensor([[0] * 5 + [1] * 7 + [2] * 4, [0] * 16])
    packed = hidden_states(model, window, document)
    for start, stop in ((0, 5), (5, 12), (12, 16)):
        alone = hidden_states(model, window[:1, start:stop])[0]
        torch.testing.assert_close(packed[0, start:stop], alone, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(packed[1], hidden_states(model, window)[1], rtol=1e-4, atol=1e-5)
    changed = window.clone()
    changed[0, 2] = (changed[0, 2] + 1) % 32
    moved = hidden_states(model, changed, document)
    assert torch.equal(moved[0, 5:], packed[0, 5:]) and not torch.equal(
        moved[0, 2:5], packed[0, 2:5]
    )


def granite() -> Any:
    from transformers import GraniteConfig, GraniteForCausalLM

    return GraniteForCausalLM(GraniteConfig(**COMMON, logits_scaling=4.0))


def gemma() -> Any:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    return Gemma2ForCausalLM(Gemma2Config(**COMMON, head_dim=8, final_logit_softcapping=2.0))


def cohere() -> Any:
    from transformers import CohereConfig, CohereForCausalLM

    return CohereForCausalLM(CohereConfig(**COMMON, logit_scale=0.25))


def phi() -> Any:
    from transformers import PhiConfig, PhiForCausalLM

    model = PhiForCausalLM(PhiConfig(**COMMON))
    torch.nn.init.normal_(model.lm_head.bias)
    return model


COMMON: dict[str, Any] = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "initializer_range": 0.5,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": None,
}


@pytest.mark.parametrize("family", [granite, gemma, cohere, phi])
def test_heads_of_other_families(family: Callable[[], Any]):
    """Scaled, capped and biased logits are formed from hidden states as the family forms them."""
    torch.manual_seed(0)
    model = family().eval()
    with torch.no_grad():
        wanted = model(tokens(1, 8)).logits
        hidden = hidden_states(model, tokens(1, 8))
        torch.testing.assert_close(head_of(model)(hidden), wanted, rtol=1e-5, atol=1e-5)
        cut = head_of(model, 20)
        torch.testing.assert_close(cut(hidden), wanted[..., :20], rtol=1e-5, atol=1e-5)
        assert cut.vocab_size == 20


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 0}, "student.hidden_size=0: must be >= 1."),
        (
            {"hidden_size": 27},
            "student.hidden_size=27: must be an even multiple of student.num_heads=2.",
        ),
        (
            {"num_heads": 4, "num_kv_heads": 3},
            "student.num_kv_heads=3: must divide student.num_heads=4.",
        ),
        ({"num_layers": 0}, "student.num_layers=0: must be >= 1."),
    ],
)
def test_values_out_of_range(changes: dict[str, int], message: str):
    with pytest.raises(ConfigError, match=re.escape(message)):
        small(**changes)
