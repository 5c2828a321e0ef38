"""What the distillation law takes students without a teacher to reach, by another fit."""

from dataclasses import replace

from ..laws.law import Law
from .fitted import Fit
from .levels import FitError


def supervised_by(law: Law, found: Fit) -> Law:
    """A distillation law whose students without a teacher follow another fit."""
    if not hasattr(law, "supervised"):
        raise FitError(f"--supervised: is for law=distillation, not for {law.name}.")
    wanted = ("E", "A", "B", "alpha", "beta", "gamma")
    parameters = {"gamma": 1.0, "beta": found.parameters.get("alpha"), **found.parameters}
    if any(parameters.get(name) is None for name in wanted):
        raise FitError(
            f"--supervised: a fit of law={found.law} has no {', '.join(wanted)}; "
            "give one of supervised_gamma, chinchilla_gamma or chinchilla."
        )
    pairs = tuple((name, float(parameters[name] or 0.0)) for name in wanted)
    return replace(law, supervised=pairs)  # type: ignore[call-arg]
