"""The check of a plan: a trainer can use its values, and they belong to its model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from completedp import files
from completedp.config import check_together, scale_of
from completedp.errors import UserError, located
from completedp.kinds import POSITIVE
from completedp.models import grown_inventory, parameter_count, training_flops
from completedp.modules import FUSED, TensorSpec
from completedp.optimizer import TensorRow
from completedp.plan import Plan
from completedp.rules import PARAMETERIZATIONS


def read_plan(path: Path) -> Plan:
    """Read and check a plan file. Raises `UserError` that names the file and the wrong key."""
    return plan_of(files.read_yaml(path), str(path))


def plan_of(content: Mapping[str, Any], where: str = "plan") -> Plan:
    """A checked plan from its file's content. Raises `UserError` that begins with `where`."""
    plan = Plan.from_dict(content, where)
    with located(where):
        check_plan(plan)
    return plan


def check_plan(plan: Plan) -> None:
    """Raises `UserError`, naming the key, for values that no trainer can use."""
    _check_rules(plan)
    _check_sizes(plan)
    _check_tensors(plan)
    _check_multipliers(plan)


def _check_rules(plan: Plan) -> None:
    if plan.parameterization not in PARAMETERIZATIONS:
        raise UserError(
            f"parameterization is {plan.parameterization!r}; expected one of "
            f"{', '.join(PARAMETERIZATIONS)}"
        )
    with located("options"):
        plan.options.check_for(plan.parameterization)


def _check_sizes(plan: Plan) -> None:
    """The scale, the counts, and the fit of model, data and training."""
    train, model = plan.train, plan.model
    if (scale := scale_of(model, train)) != plan.scale:
        raise UserError(f"scale is {plan.scale}, but model and train say {scale}; they must agree")
    check_together(model, plan.data, train)
    for name, counted in (
        ("parameters", parameter_count(model)),
        ("flops", training_flops(model, train.tokens)),
    ):
        if getattr(plan, name) != counted:
            raise UserError(f"{name} is {getattr(plan, name)}; model and train make {counted}")


def _check_tensors(plan: Plan) -> None:
    """One row per tensor of the model, with values that the optimizer takes."""
    specs = {spec.name: spec for spec in grown_inventory(plan.model, plan.model)}
    expected = _expected(plan.tensors, specs)
    for i, row in enumerate(plan.tensors):
        module_type = expected.pop(row.name, None)
        if module_type is None:
            raise UserError(f"tensors.{i}: {row.name!r} is no tensor of this model, or given twice")
        spec = specs[row.name.partition("[")[0]]
        if (row.module_type, row.layer) != (module_type, spec.layer):
            raise UserError(
                f"tensors.{i}: {row.name} is {row.module_type!r} of layer {row.layer}; expected "
                f"{module_type!r} of layer {spec.layer}"
            )
        row.check_planned()
        _check_init(row, spec)
    if expected:
        raise UserError(f"tensors: {next(iter(expected))} is missing; add its row")


def _check_multipliers(plan: Plan) -> None:
    """The coefficients of each kind, and the multiplier on the logits."""
    plan.resolved.check_coefficients(plan.model.depth)
    _check_positive("output_multiplier", plan.output_multiplier)


def _expected(rows: tuple[TensorRow, ...], specs: Mapping[str, TensorSpec]) -> dict[str, str]:
    """Module type by name for each expected row. A fused tensor has one row per part if any part has one."""
    apart = {row.name.partition("[")[0] for row in rows if "[" in row.name}
    expected: dict[str, str] = {}
    for name, spec in specs.items():
        if name in apart and spec.module_type in FUSED:
            expected |= {f"{name}[{part}]": part for part in FUSED[spec.module_type]}
        else:
            expected[name] = spec.module_type
    return expected


def _check_init(row: TensorRow, spec: TensorSpec) -> None:
    if spec.is_weight and row.init_std is not None:
        _check_positive(f"{row.name}: init_std", row.init_std)
    elif spec.is_weight:
        raise UserError(f"{row.name}: init_std is missing; expected a number above 0 for a weight")
    elif row.init_std is not None:
        raise UserError(f"{row.name}: init_std is {row.init_std}; expected none for a {spec.role}")
    if row.init_value != spec.init_value:
        raise UserError(
            f"{row.name}: init_value is {row.init_value}; expected {spec.init_value} for a {spec.role}"
        )


def _check_positive(path: str, value: float) -> None:
    if not POSITIVE.is_right(value):
        raise UserError(f"{path} is {value}; expected {POSITIVE.expected}")
