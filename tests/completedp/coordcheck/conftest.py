"""One text for every Python: the embedded one differs between versions, and so what a few steps show."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import pytest

from completedp import files
from completedp.config import StudyConfig
from completedp.lm.preset_files import load_preset


def text() -> str:
    """Lines of words that were made up, the n-th drawn as often as 1 / n: 1.1 MB."""
    rng = random.Random(1)
    words = ["".join(rng.choices("etaoinshrdlu", k=1 + rng.randrange(9))) for _ in range(2000)]
    often = [1 / (i + 1) for i in range(len(words))]
    lines = (
        " ".join(rng.choices(words, often, k=1 + rng.randrange(14)))
        + rng.choice([".\n", ",\n", ":\n    "])
        for _ in range(24_000)
    )
    return "".join(lines)


@pytest.fixture(scope="session")
def preset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The preset `coordinates` on that text, as a file."""
    folder = tmp_path_factory.mktemp("preset")
    (folder / "words.txt").write_text(text())
    config = load_preset("coordinates")
    data = dataclasses.replace(config.data, source=str(folder / "words.txt"))
    files.write_yaml(folder / "preset.yaml", dataclasses.replace(config, data=data).to_dict())
    return folder / "preset.yaml"


@pytest.fixture(scope="session")
def small(preset: Path) -> StudyConfig:
    """With an eighth of the batch."""
    config = load_preset(str(preset))
    return dataclasses.replace(config, train=dataclasses.replace(config.train, batch=256))
