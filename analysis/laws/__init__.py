"""Scaling laws, one small class each; a class in a module of this folder is found by its name.

Builds on nothing.
"""

from difflib import get_close_matches
from importlib import import_module
from pkgutil import iter_modules

from pdx.errors import PdxError

from .law import Law


class UnknownLaw(PdxError, ValueError):
    """A name that no law of the folder has."""


def laws() -> dict[str, Law]:
    """Every law by its name, in the order of the files."""
    found: dict[str, Law] = {}
    for module in sorted(info.name for info in iter_modules(__path__)):
        module_name = f"{__name__}.{module}"
        for value in vars(import_module(module_name)).values():
            if (
                isinstance(value, type)
                and value.__module__ == module_name
                and "name" in vars(value)
            ):
                found[value.name] = value()
    return found


def law_named(name: str) -> Law:
    """The law of this name.

    Raises:
        UnknownLaw: there is none; the message names the nearest and all others.
    """
    known = laws()
    if name not in known:
        near = get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise UnknownLaw(
            f"law={name}: no such law.{hint} Known: {', '.join(known)}; or FILE.py:FUNCTION, a "
            "function of columns whose keyword-only arguments are parameters with their starts."
        )
    return known[name]
