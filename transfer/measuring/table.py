"""The table of a transfer check and its exponents, for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from transfer.measuring.transfer_check import SWEPT
from transfer.planning.warnings import DURATION_EXPONENTS


def table(document: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Column names and rows. Optimum and move are in octaves, loss lost and spread in percent of the loss."""
    axis = document["axis"]
    rows = []
    for part in document["parameterizations"]:
        base = next(row for row in part["rows"] if row["ratio"] == 1)
        rows += [
            {
                "parameterization": part["parameterization"],
                **_shown(row, axis, base["carried"] is not None),
            }
            for row in part["rows"]
        ]
    return list(rows[0]), [list(row.values()) for row in rows]


def _shown(row: Mapping[str, Any], axis: str, is_carried: bool) -> dict[str, str]:
    optimum, carried = row["optimum"], row["carried"]
    is_base = row["ratio"] == 1
    place = best = spread = "–"
    if optimum:
        is_inside = optimum["place"] == "inside"
        place = interval(optimum["octaves"]) if is_inside else optimum["place"]
        best = f"{optimum['loss']:.4f}" if is_inside else "–"
    if carried:
        spread = f"{100 * carried['seed_spread'] / carried['loss']:.2f}"
    return {
        axis: f"x {row['ratio']:g} ({row['target'][axis]:,})",
        "best loss": best,
        "optimum": place,
        "moved": "base" if is_base else interval(row["moved"]),
        "lost by carrying, %": "base" if is_base else _lost(row) if is_carried else "–",
        "seed's spread, %": spread,
        "diverged": str(sum(row["diverged"].values())),
    }


def _lost(row: Mapping[str, Any]) -> str:
    carried = row["carried"]
    if carried is None:
        return "–" if row["runs_missing"] else "diverges"
    if carried["lost_to_edge"] is not None:
        lost = carried["lost_to_edge"]
        return f"{100 * lost / (carried['loss'] - lost):.2f} to the edge"
    return interval(carried["lost_percent"])


def interval(found: Mapping[str, Any] | None) -> str:
    """An estimate with its interval; an open side is `…`."""
    if found is None:
        return "–"
    low, high = ("…" if found[side] is None else f"{found[side]:+.2f}" for side in ("low", "high"))
    return f"{found['value']:+.2f} [{low}, {high}]"


def exponents(document: Mapping[str, Any]) -> Iterator[str]:
    """One line per parameterization."""
    axis = document["axis"]
    for part in document["parameterizations"]:
        line = (
            f"{part['parameterization']}: best {SWEPT[document['swept']]} on the carried one ∝ {axis}^e, "
            f"e = {interval(part['exponent'])}"
        )
        if duration := part.get("duration_exponent"):
            lowest, highest = DURATION_EXPONENTS
            line += (
                f"; duration exponent {interval(duration['fitted'])} where its rule has "
                f"{duration['rule']:g} (published 0.5; fitted by others {lowest:g} to {highest:g})"
            )
        yield line
