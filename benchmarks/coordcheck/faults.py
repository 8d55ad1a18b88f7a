"""Mistakes of real implementations, planted in the reference model. The check must name each of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from completedp.config import StudyConfig
from completedp.coordcheck.measure import Quantity
from completedp.coordcheck.reference import ReferenceSubject
from completedp.coordcheck.slopes import Axis
from completedp.modules import Inventory
from completedp.optimizer import TensorRow
from completedp.resolved import Resolved
from completedp.scale import Ratios


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A wrong row for one module type, with the axis and the quantity that must show it."""

    module_type: str
    axis: Axis
    quantity: Quantity
    wrong: Callable[[TensorRow, Ratios], TensorRow]


def _scaled(row: TensorRow, field: str, factor: float) -> TensorRow:
    values: dict[str, Any] = {field: getattr(row, field) * factor}
    return dataclasses.replace(row, **values)


FAULTS: Mapping[str, Fault] = {
    "embedding's ε unscaled": Fault(
        module_type="embedding",
        axis="width",
        quantity="gradient",
        wrong=lambda row, ratios: _scaled(row, "eps", ratios.width),
    ),
    "QK norm's ε with the width factor": Fault(
        module_type="q_norm",
        axis="width",
        quantity="gradient",
        wrong=lambda row, ratios: _scaled(row, "eps", 1 / ratios.width),
    ),
    "one tensor's lr unscaled": Fault(
        module_type="ffn_up",
        axis="width",
        quantity="update",
        wrong=lambda row, ratios: _scaled(row, "lr", ratios.width),
    ),
    "1/√(2L) twice in an init": Fault(
        module_type="attention_out",
        axis="depth",
        quantity="output",
        wrong=lambda row, ratios: _scaled(row, "init_std", ratios.depth**-0.5),
    ),
    "ε with the batch's sign inverted": Fault(
        module_type="ffn_down",
        axis="batch",
        quantity="noise",
        wrong=lambda row, ratios: _scaled(row, "eps", ratios.batch),
    ),
}


class FaultySubject(ReferenceSubject):
    """The reference model with one planted fault."""

    def __init__(
        self, config: StudyConfig, cache: Path, device: torch.device, fault: Fault
    ) -> None:
        super().__init__(config, cache, device)
        self._fault = fault

    def resolved(
        self,
        inventory: Inventory,
        ratios: Ratios,
        parameterization: str,
        options: Mapping[str, Any],
    ) -> Resolved:
        right = super().resolved(inventory, ratios, parameterization, options)
        rows = (
            self._fault.wrong(row, ratios) if row.module_type == self._fault.module_type else row
            for row in right.tensors
        )
        return dataclasses.replace(right, tensors=tuple(rows))
