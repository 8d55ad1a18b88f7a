"""The canonical table: everything that a trainer of any kind needs, as one JSON document."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from completedp.models import content_of, external_model
from completedp.plan import Plan

SCHEMA = 1


def table(plan: Plan) -> dict[str, Any]:
    """The document, in plain JSON types.

    Every number is at the plan's scale: nothing is left to be scaled. `lr` is the peak. `weight_decay` is
    PyTorch's (θ −= lr · weight_decay · θ). `init_std` is null for a tensor that starts at `init_value`.

    `tensors` and `residual` go together. `folded` replaces both in a model without residual multipliers: each
    branch's multiplier is folded into the branch's last matrix. To clip such a model, take the norm over
    multiplier times gradient of those matrices. `output_multiplier` goes with either.

    For an external model, `folded` is what its optimizer takes: fused tensors whole, the multiplier on the
    logits folded too. `folded_multipliers` has the multipliers for the clipping norm. `hooked` has the
    multipliers that no tensor can take: factors on a module's output.
    """
    if external_model(plan.model) is None:
        folded = {"folded": plan.resolved.folded().to_dict()["tensors"]}
    else:
        from completedp.adapters.plans import planned

        values = planned(plan)
        folded = {
            "folded": values.resolved.to_dict()["tensors"],
            "folded_multipliers": dict(values.folded),
            "hooked": {multiplier.module: multiplier.c for multiplier in values.hooked},
        }
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
        **folded,
    }


def train_settings(plan: Plan) -> dict[str, Any]:
    """The training loop's settings and the number of steps."""
    return {"steps": plan.train.steps, **dataclasses.asdict(plan.train)}


def render(plan: Plan) -> str:
    """The file's text."""
    return json.dumps(table(plan), indent=1, allow_nan=False) + "\n"


def limitations(plan: Plan) -> tuple[str, ...]:
    """None: the table has the whole plan."""
    return ()
