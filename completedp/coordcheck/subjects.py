"""The subject of a study configuration."""

from __future__ import annotations

from pathlib import Path

import torch

from completedp.config import ExternalModel, StudyConfig
from completedp.coordcheck.reference import ReferenceSubject
from completedp.coordcheck.subject import Subject


def subject_of(config: StudyConfig, cache: Path, device: torch.device) -> Subject:
    """The reference model or another's, whichever the configuration has."""
    if isinstance(config.model, ExternalModel):
        from completedp.coordcheck.external import ForeignSubject

        return ForeignSubject(config, cache, device)
    return ReferenceSubject(config, cache, device)
