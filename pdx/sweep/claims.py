"""The claims of a sweep file: what was published, and which of its runs decide that here."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from pdx.build import did_you_mean
from pdx.errors import SweepError
from pdx.sweep.plan import Point

MARGIN_NATS = 0.01  # below it a difference is none, unless the claim says otherwise
EXPECTED = ("lower", "higher", "no difference")
REQUIRED = ("says", "source", "published")
CELLS = ("treatment", "control", "beyond")
TESTED = ("treatment", "control", "expect")
RATE_AXIS = "optim.peak_lr"
Cell = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One published claim, and how it is tested here: loss of ``treatment`` minus ``control``.

    Attributes:
        says, source, published: the claim in words, the paper and table, its effect there.
        treatment, control: values by axis that single out one setting each; what is left to vary
            is the learning rate, chosen on val, and seeds, which are paired.
        expect: of the test loss of ``treatment``: lower, higher or no difference.
        beyond: another treatment and control, whose difference is taken off: "helps more than".
        margin: nats per token below which a difference is none.
        confounds: what else differs, shown beside the verdict.
        unresolved: what of the source's definition is not to be had, besides what components
            declare themselves (``definition_unresolved``).
        not_testable: why no run of this sweep can decide it.
    """

    name: str
    says: str
    source: str
    published: str
    treatment: Cell
    control: Cell
    expect: str | None
    beyond: dict[str, Cell]
    margin: float
    confounds: list[str]
    unresolved: str | None
    not_testable: str | None

    @property
    def cells(self) -> list[tuple[str, int, Cell]]:
        """Each cell with its key and its sign in the effect."""
        if self.not_testable:
            return []
        cells = [("treatment", 1, self.treatment), ("control", -1, self.control)]
        if self.beyond:
            cells.append(("beyond.treatment", -1, self.beyond["treatment"]))
            cells.append(("beyond.control", 1, self.beyond["control"]))
        return cells


def claims_in(path: Path, text: Mapping[str, Any], block: Mapping[str, Any]) -> tuple[Claim, ...]:
    """The claims of a file for one scale: those of the file, with the scale's own on top.

    Raises:
        SweepError: a claim that lacks something or says what is not known.
    """
    shared, own = _claims(path, text, "claims"), _claims(path, block, "scales.*.claims")
    names = dict.fromkeys([*shared, *own])
    return tuple(_claim(path, n, {**shared.get(n, {}), **own.get(n, {})}) for n in names)


def hold(
    claims: Iterable[Claim],
    points: Iterable[Point],
    undefined: Mapping[str, list[str]],
    strict: bool,
) -> list[dict[str, Any]]:
    """What a plan keeps of each claim: its words, and the runs of its cells.

    Args:
        undefined: by run, the components that declare ``definition_unresolved``.
        strict: refuse a cell without runs; else the claim cannot be told here.

    Raises:
        SweepError: a cell that no run fits, or runs of several settings.
    """
    points, held = list(points), []
    for claim in claims:
        cells = []
        for key, sign, cell in claim.cells:
            runs = _runs_of(f"claims.{claim.name}.{key}", cell, points, strict)
            cells.append({"name": key, "sign": sign, "values": cell, "runs": runs})
        sides: dict[int, set[str]] = {1: set(), -1: set()}
        for cell in cells:
            sides[cell["sign"]] |= {u for run in cell["runs"] for u in undefined.get(run, [])}
        plain = {k: v for k, v in asdict(claim).items() if k not in CELLS}
        plain |= {"cells": cells, "undefined": sorted(sides[1] ^ sides[-1])}
        held.append(plain)
    return held


def _runs_of(key: str, cell: Cell, points: list[Point], strict: bool) -> list[str]:
    fit = [p for p in points if all(k in p.params and p.params[k] == v for k, v in cell.items())]
    settings = {str(setting_of(p)): setting_of(p) for p in fit}
    if len(settings) > 1:
        one, other = list(settings.values())[:2]
        differ = ", ".join(k for k in {**one, **other} if one.get(k) != other.get(k))
        raise SweepError(
            f"{key}={cell}: fits several settings, which differ in {differ}; a cell is one "
            "setting: give it a value of these, too."
        )
    if not fit and strict:
        known: dict[str, list[Any]] = {}
        for point in points:
            for axis, value in setting_of(point).items():
                values = known.setdefault(axis, [])
                values += [value] if value not in values else []
        said = "; ".join(f"{axis}: {values}" for axis, values in known.items())
        raise SweepError(
            f"{key}={cell}: no run of this sweep is that; axes and controls have {said}."
        )
    return [p.run_id for p in fit]


def setting_of(point: Point) -> dict[str, Any]:
    """What a run sets, but for its learning rate and seeds."""
    seeds = {k for k in point.params if k.rpartition(".")[2] == "seed"}
    return {k: v for k, v in point.params.items() if k not in seeds and k != RATE_AXIS}


def _claims(path: Path, text: Mapping[str, Any], key: str) -> dict[str, dict[str, Any]]:
    given = text.get("claims") or {}
    if not isinstance(given, dict) or not all(isinstance(c, dict) for c in given.values()):
        raise SweepError(
            f"{path}: {key}: must name claims, each with its fields, such as "
            "`kd_helps: {says: ..., source: ..., published: ..., treatment: {loss: forward_kl}, "
            "control: {loss: none}, expect: lower}`."
        )
    return given


def _claim(path: Path, name: str, given: dict[str, Any]) -> Claim:
    where = f"{path}: claims.{name}"
    known = [f.name for f in fields(Claim) if f.name != "name"]
    for key in given:
        if key not in known:
            raise SweepError(
                f"{where}.{key}: unknown key.{did_you_mean(str(key), known)} "
                f"Known: {', '.join(known)}."
            )
    tested = () if given.get("not_testable") else TESTED
    if lacking := [key for key in (*REQUIRED, *tested) if not given.get(key)]:
        raise SweepError(
            f"{where}: lacks {', '.join(lacking)}; state it"
            + (", or say by not_testable why no run here can decide it." if tested else ".")
        )
    if given.get("expect") not in (None, *EXPECTED):
        raise SweepError(
            f"{where}.expect={given['expect']}: must be of the treatment's loss: "
            f"{', '.join(EXPECTED)}."
        )
    margin = given.get("margin", MARGIN_NATS)
    if isinstance(margin, bool) or not isinstance(margin, int | float) or margin <= 0:
        raise SweepError(f"{where}.margin={margin}: must be nats per token > 0, such as 0.01.")
    beyond = given.get("beyond") or {}
    if not isinstance(beyond, dict) or (beyond and set(beyond) != {"treatment", "control"}):
        raise SweepError(f"{where}.beyond={beyond}: must have a treatment and a control.")
    cells = {k: given.get(k) or {} for k in ("treatment", "control")}
    for key, cell in [*cells.items(), *((f"beyond.{k}", v) for k, v in beyond.items())]:
        if not isinstance(cell, dict):
            raise SweepError(
                f"{where}.{key}={cell}: must be values by axis, such as {{loss: mse}}."
            )
    confounds = given.get("confounds") or []
    if not isinstance(confounds, list):
        raise SweepError(f"{where}.confounds={confounds}: must be a list of sentences.")
    return Claim(
        name=name,
        says=str(given["says"]),
        source=str(given["source"]),
        published=str(given["published"]),
        treatment=cells["treatment"],
        control=cells["control"],
        expect=given.get("expect"),
        beyond=beyond,
        margin=float(margin),
        confounds=[" ".join(str(c).split()) for c in confounds],
        unresolved=given.get("unresolved"),
        not_testable=given.get("not_testable"),
    )
