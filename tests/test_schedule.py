"""Schedules and mixtures: fraction of training -> value."""

import math
from itertools import pairwise

import pytest
from numerics import component, values

from pdx.errors import ConfigError

# Values at chosen fractions, by hand; every file of conf/schedule must be here.
KNOWN: dict[str, tuple[dict[str, float | str], dict[float, float]]] = {
    "wsd": (
        {"warmup_frac": 0.1, "decay_frac": 0.4, "decay_shape": "sqrt", "final_frac": 0.2},
        {
            0.0: 0.0,
            0.05: 0.5,
            0.1: 1.0,
            0.3: 1.0,
            0.6: 1.0,
            0.7: 0.6,
            0.96: 1 - 0.8 * math.sqrt(0.9),
            1.0: 0.2,
        },
    ),
    "cosine": (
        {"warmup_frac": 0.2, "final_frac": 0.1},
        {
            0.0: 0.0,
            0.1: 0.5,
            0.2: 1.0,
            0.4: 0.1 + 0.9 * (1 + math.sqrt(0.5)) / 2,
            0.6: 0.55,
            1.0: 0.1,
        },
    ),
    "linear": ({"warmup_frac": 0.2, "final_frac": 0.5}, {0.1: 0.5, 0.2: 1.0, 0.6: 0.75, 1.0: 0.5}),
    "sqrt": (
        {"warmup_frac": 0.2, "final_frac": 0.1},
        {0.1: 0.5, 0.2: 1.0, 0.4: 0.55, 0.65: 1 - 0.9 * 0.75, 1.0: 0.1},
    ),
    "constant": ({"warmup_frac": 0.2}, {0.0: 0.0, 0.1: 0.5, 0.2: 1.0, 0.5: 1.0, 1.0: 1.0}),
}
# Of WSD that decays over the last 40% to 0.2.
WSD_SHAPES = {
    "linear": {0.7: 0.8, 0.8: 0.6, 0.9: 0.4},
    "cosine": {0.7: 0.2 + 0.8 * (1 + math.sqrt(0.5)) / 2, 0.8: 0.6},
    "sqrt": {0.7: 0.6, 0.8: 1 - 0.8 * math.sqrt(0.5)},
}


@pytest.mark.parametrize("name", values("schedule"))
def test_known_values(name: str):
    if name not in KNOWN:
        pytest.fail(f"add values by hand for {name} to KNOWN (tests/test_schedule.py)")
    changes, wanted = KNOWN[name]
    schedule = component("schedule", name, **changes)
    for fraction, value in wanted.items():
        assert schedule(fraction) == pytest.approx(value, abs=1e-12), fraction


@pytest.mark.parametrize("shape", sorted(WSD_SHAPES))
def test_wsd_decay_shapes(shape: str):
    changes = {"warmup_frac": 0.0, "decay_frac": 0.4, "decay_shape": shape, "final_frac": 0.2}
    schedule = component("schedule", "wsd", **changes)
    for fraction, value in {0.5: 1.0, 1.0: 0.2, **WSD_SHAPES[shape]}.items():
        assert schedule(fraction) == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize("name", values("schedule"))
def test_every_schedule_lies_between_zero_and_one_and_never_jumps(name: str):
    schedule = component("schedule", name)
    num_steps = 2000
    asked = [schedule((step + 0.5) / num_steps) for step in range(num_steps)]
    assert all(0 < value <= 1 for value in asked)  # at midpoints no step is taken at zero
    assert max(asked) == pytest.approx(1.0, abs=0.01)
    # sqrt starts steeply: its first step falls by sqrt of a step's share of the decay
    assert max(abs(b - a) for a, b in pairwise(asked)) < 0.06


@pytest.mark.parametrize("name", values("schedule"))
@pytest.mark.parametrize("num_steps", [1, 2, 3])
def test_very_short_trainings_step(name: str, num_steps: int):
    schedule = component("schedule", name)
    assert all(0 < schedule((step + 0.5) / num_steps) <= 1 for step in range(num_steps))


def test_no_warmup_starts_at_the_peak():
    for name in values("schedule"):
        assert component("schedule", name, warmup_frac=0.0)(0.0) == 1.0


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("wsd", {"warmup_frac": 1.2}, r"schedule.warmup_frac=1.2: must lie in \[0, 1\]."),
        (
            "wsd",
            {"decay_frac": 0.99},
            r"schedule.decay_frac=0.99: with schedule.warmup_frac=0.05 must not",
        ),
        (
            "wsd",
            {"decay_shape": "log"},
            r"schedule.decay_shape=log: must be one of sqrt, linear, cosine.",
        ),
        ("cosine", {"final_frac": -0.1}, r"schedule.final_frac=-0.1: must lie in \[0, 1\]."),
        ("linear", {"final_frac": 2.0}, r"schedule.final_frac=2.0: must lie"),
        ("constant", {"warmup_frac": -1.0}, r"schedule.warmup_frac=-1.0: must lie"),
    ],
)
def test_values_out_of_range(name: str, changes: dict[str, object], message: str):
    with pytest.raises(ConfigError, match=message):
        component("schedule", name, **changes)


# As for schedules; every file of conf/mix must be here.
WSD_FIELDS = {"warmup_frac": 0.2, "decay_frac": 0.4, "decay_shape": "linear", "final_frac": 0.5}
KNOWN_MIX: dict[str, tuple[dict[str, float | str], dict[float, float]]] = {
    "constant": ({"kd_weight": 0.3}, {0.0: 0.3, 0.5: 0.3, 1.0: 0.3}),
    "linear_up": ({}, {0.0: 0.0, 0.25: 0.25, 1.0: 1.0}),
    "linear_down": ({"end": 0.2}, {0.0: 1.0, 0.25: 0.8, 1.0: 0.2}),
    "period": (
        {"high": 0.9, "low": 0.1, "high_frac": 0.25, "num_periods": 2},
        {0.0: 0.9, 0.12: 0.9, 0.13: 0.1, 0.49: 0.1, 0.51: 0.9, 0.7: 0.1},
    ),
    "wsd": (
        {"kd_weight": 0.8, **WSD_FIELDS},
        {0.0: 0.0, 0.1: 0.4, 0.2: 0.8, 0.6: 0.8, 0.8: 0.6, 1.0: 0.4},
    ),
    "one_minus_wsd": (
        {"kd_weight": 0.8, **WSD_FIELDS},
        {0.0: 1.0, 0.1: 0.6, 0.2: 0.2, 0.6: 0.2, 0.8: 0.4, 1.0: 0.6},
    ),
}


@pytest.mark.parametrize("name", values("mix"))
def test_known_mixtures(name: str):
    if name not in KNOWN_MIX:
        pytest.fail(f"add values by hand for {name} to KNOWN_MIX (tests/test_schedule.py)")
    changes, wanted = KNOWN_MIX[name]
    mix = component("mix", name, **changes)
    for fraction, value in wanted.items():
        assert mix(fraction) == pytest.approx(value, abs=1e-12), fraction


@pytest.mark.parametrize("name", values("mix"))
def test_mixtures_are_weights(name: str):
    mix = component("mix", name)
    assert all(0 <= mix(i / 100) <= 1 for i in range(101))


def test_a_mixture_that_follows_the_schedule_is_the_schedules_curve():
    """One type: the best run of arXiv:2410.16215 moves both by one shape."""
    fields = {"warmup_frac": 0.1, "decay_frac": 0.3, "decay_shape": "sqrt", "final_frac": 0.2}
    schedule = component("schedule", "wsd", **fields)
    mix = component("mix", "wsd", kd_weight=0.9, **fields)
    other = component("mix", "one_minus_wsd", kd_weight=0.9, **fields)
    for i in range(101):
        assert mix(i / 100) == pytest.approx(0.9 * schedule(i / 100), abs=1e-15)
        assert mix(i / 100) + other(i / 100) == pytest.approx(1.0, abs=1e-15)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("constant", {"kd_weight": -0.1}, r"mix.kd_weight=-0.1: must lie in \[0, 1\]."),
        ("constant", {"kd_weight": 1.1}, r"mix.kd_weight=1.1: must lie in \[0, 1\]."),
        ("linear_up", {"end": 1.1}, r"mix.end=1.1: must lie in \[0, 1\]."),
        ("linear_up", {"end": 0.0}, r"mix.end=0.0: must differ from mix.start; use mix=constant"),
        ("period", {"high_frac": 1.0}, r"mix.high_frac=1.0: must lie strictly between 0 and 1."),
        ("period", {"num_periods": 0}, r"mix.num_periods=0: must be at least 1."),
        ("period", {"low": -1.0}, r"mix.low=-1.0: must lie in \[0, 1\]."),
        ("wsd", {"kd_weight": 2.0}, r"mix.kd_weight=2.0: must lie in \[0, 1\]."),
        ("wsd", {"decay_frac": 0.95}, r"mix.decay_frac=0.95: with mix.warmup_frac=0.1 must not"),
        ("one_minus_wsd", {"decay_shape": "log"}, r"mix.decay_shape=log: must be one of sqrt"),
    ],
)
def test_mixtures_out_of_range(name: str, changes: dict[str, object], message: str):
    with pytest.raises(ConfigError, match=f"^{message}"):
        component("mix", name, **changes)
