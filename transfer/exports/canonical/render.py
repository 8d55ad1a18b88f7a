"""The canonical table: all that a trainer of any kind needs, as one JSON document."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from completedp.models import content_of, external_model
from completedp.plan import Plan

SCHEMA = 1


def table(plan: Plan) -> dict[str, Any]:
    """Plain JSON types. `tensors` and `residual` go together; `folded` replaces both in a model without
    a residual hook: its coefficients are moved into each branch's last matrix. Who clips such a model takes
    the norm over coefficient times gradient of those matrices. `output_multiplier` goes with both.
    Of another's model `folded` is as its optimizer takes it, a fused tensor whole, the multiplier on the
    logits folded too; `folded_multipliers` are what the norm for clipping is taken with, `hooked` what no
    tensor can take: a factor on that module's output.

    Every number is at the plan's scale: nothing is left to be scaled. `lr` is the peak, `weight_decay`
    PyTorch's (θ −= lr · weight_decay · θ), `init_std` null for a tensor that starts at `init_value`.
    """
    return {
        "schema": SCHEMA,
        "kind": "table",
        "parameterization": plan.parameterization,
        "options": dataclasses.asdict(plan.options),
        "scale": dataclasses.asdict(plan.scale),
        "parameters": plan.parameters,
        "flops": plan.flops,
        "recipe_digest": plan.recipe_digest,
        "which": plan.which,
        "model": content_of(plan.model),
        "data": dataclasses.asdict(plan.data),
        "train": train_settings(plan),
        **plan.resolved.to_dict(),
        **_folded(plan),
    }


def _folded(plan: Plan) -> dict[str, Any]:
    if external_model(plan.model) is None:
        return {"folded": plan.resolved.folded().to_dict()["tensors"]}
    from completedp.adapters.plans import planned

    values = planned(plan)
    return {
        "folded": values.resolved.to_dict()["tensors"],
        "folded_multipliers": dict(values.folded),
        "hooked": {multiplier.module: multiplier.c for multiplier in values.hooked},
    }


def train_settings(plan: Plan) -> dict[str, Any]:
    """The training loop's settings, with the number of steps."""
    return {"steps": plan.train.steps, **dataclasses.asdict(plan.train)}


def render(plan: Plan) -> str:
    """The file's text."""
    return json.dumps(table(plan), indent=1, allow_nan=False) + "\n"
