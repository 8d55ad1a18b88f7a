"""The table of kinds against the values that files hold."""

import dataclasses
import math

import pytest

from completedp.errors import UserError
from completedp.hparams import GlobalValues
from completedp.kinds import KINDS, global_kinds
from completedp.modules import BRANCH_ENDS, MODULE_TYPES


def test_global_values_are_the_tables_in_its_order() -> None:
    assert [f.name for f in dataclasses.fields(GlobalValues)] == list(global_kinds())
    defaults = {f.name: f.default for f in dataclasses.fields(GlobalValues)}
    assert defaults.pop("lr") is dataclasses.MISSING
    assert defaults == {n: k.default for n, k in global_kinds().items() if n != "lr"}


def test_only_weights_are_decayed_and_drawn() -> None:
    norms = {t for t in MODULE_TYPES if t.endswith("norm")}
    without = {name: {*MODULE_TYPES} - {*kind.types} for name, kind in KINDS.items()}
    assert without.pop("residual") == {*MODULE_TYPES}
    assert KINDS["residual"].types == tuple(BRANCH_ENDS)
    assert {name for name, absent in without.items() if absent} == {"weight_decay", "init_scale"}
    assert without["weight_decay"] == without["init_scale"] == norms


@pytest.mark.parametrize("name", global_kinds())
def test_each_global_value_has_its_range(name: str) -> None:
    lowest = {"weight_decay": 0.0, "beta1": 0.0, "beta2": 0.0}.get(name)
    refused = [-1.0, math.inf, math.nan, *([1.0] if "beta" in name else [])]
    for value in refused if lowest is not None else [*refused, 0.0]:
        with pytest.raises(UserError, match=rf"{name} is {value}; expected a .*number"):
            GlobalValues(**{"lr": 1e-3, name: value})
    assert GlobalValues(**{"lr": 1e-3, name: 0.5 if lowest is None else lowest})
