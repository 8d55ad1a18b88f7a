"""Trials at other scales than the study's own: their model, their training and their cost."""

from __future__ import annotations

import dataclasses
from fractions import Fraction

from completedp.config import StudyConfig
from completedp.errors import UserError
from completedp.models import training_flops
from completedp.scale import Ratios

# The study's own scale, which is the proxy's.
PROXY = Ratios()


def at_scale(config: StudyConfig, ratios: Ratios) -> StudyConfig:
    """The same study at `ratios` of its width, depth, batch and tokens.

    The batch is rounded to whole microbatches, or to whole sequences if there are no microbatches. The tokens
    are rounded to a whole number. Raises `UserError` for a width or depth that the model cannot have.
    """
    if ratios == PROXY:
        return config
    model, train = config.model, config.train
    size: dict[str, int] = {}
    for name in ("width", "depth"):
        wanted = getattr(ratios, name) * getattr(model, name)
        size[name] = round(wanted)
        if not wanted == size[name] >= 1:
            raise UserError(
                f"the {name} ratio {getattr(ratios, name):g} gives {wanted:g} of a model with {name} "
                f"{getattr(model, name)}; expected a ratio that gives a whole number"
            )
    unit = train.microbatch or model.context
    batch = unit * max(1, round(ratios.batch * train.batch / unit))
    tokens = max(batch, round(ratios.tokens * train.tokens))
    return dataclasses.replace(
        config,
        model=model.scaled(**size),
        train=dataclasses.replace(train, batch=batch, tokens=tokens),
    )


def cost_at(config: StudyConfig, ratios: Ratios) -> Fraction:
    """Training FLOPs of a run at `ratios`, in units of one run at the study's own scale.

    It is a fraction, so that a budget adds up exactly.
    """
    if ratios == PROXY:
        return Fraction(1)
    scaled = at_scale(config, ratios)
    return Fraction(
        training_flops(scaled.model, scaled.train.tokens),
        training_flops(config.model, config.train.tokens),
    )
