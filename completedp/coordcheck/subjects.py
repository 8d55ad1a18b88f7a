"""The subject of a study configuration."""

from __future__ import annotations

from pathlib import Path

import torch

from completedp.config import StudyConfig
from completedp.coordcheck.reference import ReferenceSubject
from completedp.coordcheck.subject import Subject
from completedp.models import external_model


def subject_of(config: StudyConfig, cache: Path, device: torch.device) -> Subject:
    """The configuration's model, of either kind."""
    if external_model(config.model) is not None:
        from completedp.coordcheck.external import ExternalSubject

        return ExternalSubject(config, cache, device)
    return ReferenceSubject(config, cache, device)
