"""What a norm's code does with its parameters: each norm is run on one row of features."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from completedp.adapters.observe import Parameter
from completedp.errors import UserError


def bias_or_offset(p: Parameter) -> tuple[bool, float]:
    """Whether a norm's parameter is its bias, and the number that the code adds to a gain.

    The norm runs twice, with the parameter at 0 and at 1 and all other parameters at 0. The output's step is
    proportional to the input for a gain, and constant for a bias. Raises `UserError` if it is neither.
    """
    size = p.shape[0]
    x_BTD = torch.linspace(-1.0, 2.0, size + 1, device="cpu")[None, None, :size]
    try:
        with torch.no_grad():
            at_0, at_1 = (_normed(p, x_BTD, value) for value in (0.0, 1.0))
    except Exception as error:  # whatever the user's code raises
        raise UserError(
            f"{p.name} is taken for a norm's parameter, but its {type(p.owner).__name__} does not run on one "
            f"row of features ({error})"
        ) from None
    step = at_1 - at_0
    if float((step - 1).abs().max()) < 1e-3:
        return True, 0.0
    offset = float((at_0 * step).sum() / step.square().sum())
    rounded = round(offset) if math.isfinite(offset) else 0
    if not abs(offset - rounded) < 1e-3:
        raise UserError(
            f"{p.name} is taken for a norm's gain, but the output of its {type(p.owner).__name__} at gain 0 "
            f"is {offset:.3g} of the step to gain 1; expected 0 (a gain) or 1 (a gain plus one)"
        )
    return False, float(rounded)


def _normed(p: Parameter, x_BTD: Tensor, value: float) -> Tensor:
    values = {
        name: torch.full_like(x_BTD[0, 0], value if name == p.leaf else 0.0)
        for name, _ in p.owner.named_parameters(recurse=False)
    }
    normed_BTD: Tensor = torch.func.functional_call(p.owner, values, (x_BTD,))
    return normed_BTD
