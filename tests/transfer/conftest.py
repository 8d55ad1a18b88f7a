"""A text to train on; also makes `exporting` importable here."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parent / "exports"))


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    words = np.random.default_rng(0).choice(
        ["the ", "cat ", "sat ", "on ", "a ", "mat. "], size=60_000
    )
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("".join(words))
    return path
