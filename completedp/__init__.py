"""Per-module hyperparameters for transformers: searched on a small proxy, carried to any scale."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from completedp.adapters.parametrized import Parametrized as Parametrized
    from completedp.adapters.parametrized import parametrize as parametrize
    from completedp.adapters.parametrized import trial_values as trial_values
    from completedp.adapters.plans import audit as audit
    from completedp.auditing import Audit as Audit
    from completedp.errors import UserError as UserError
    from completedp.hparams import HParams as HParams
    from completedp.modules import Inventory as Inventory
    from completedp.modules import reference_inventory as reference_inventory
    from completedp.recipe import Recipe as Recipe
    from completedp.resolved import Resolved as Resolved
    from completedp.resolved import resolve as resolve
    from completedp.rules import factors as factors
    from completedp.scale import Ratios as Ratios
    from completedp.scale import Scale as Scale
    from completedp.training.one_run import train as train

__version__ = "0.1.0"

# Public name → the module it lives in. Resolved on first use: importing the package costs nothing.
_HOMES = {
    "Audit": "completedp.auditing",
    "HParams": "completedp.hparams",
    "Inventory": "completedp.modules",
    "Parametrized": "completedp.adapters.parametrized",
    "Ratios": "completedp.scale",
    "Recipe": "completedp.recipe",
    "Resolved": "completedp.resolved",
    "Scale": "completedp.scale",
    "UserError": "completedp.errors",
    "audit": "completedp.adapters.plans",
    "factors": "completedp.rules",
    "parametrize": "completedp.adapters.parametrized",
    "reference_inventory": "completedp.modules",
    "resolve": "completedp.resolved",
    "train": "completedp.training.one_run",
    "trial_values": "completedp.adapters.parametrized",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'completedp' has no attribute {name!r}")
    module = importlib.import_module(_HOMES[name])
    value = globals()[name] = getattr(module, name)
    return value


def __dir__() -> list[str]:
    return __all__
