"""Makes `bowl` and `studies` importable here, the first also by jobs; and studies without a view."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from completedp.config import DataConfig, ModelConfig, StudyConfig, TrainConfig
from completedp.hparams import GlobalValues
from search import study_run

sys.path.append(str(Path(__file__).parent))


@pytest.fixture(scope="session")
def config() -> StudyConfig:
    return StudyConfig(
        model=ModelConfig(width=32, depth=2, head_dim=16, ffn=88, vocab_size=256, context=64),
        data=DataConfig(),
        train=TrainConfig(tokens=8192, batch=1024),
        values=GlobalValues(lr=2**-8),
    )


class NoTracker:
    def __init__(self, *_: object, **__: object) -> None: ...

    def update(self) -> None: ...

    def close(self) -> bool:
        return True


@pytest.fixture(scope="module")
def no_view() -> Iterator[None]:
    """Neither MLflow nor figures: they take seconds a study."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study_run, "Tracker", NoTracker)
        patch.setattr(study_run, "draw", lambda *_: [])
        yield
