"""A small corpus and small runs on it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import completedp
from completedp.config import ModelConfig
from completedp.hparams import GlobalValues, HParams
from completedp.lm.train import LanguageModelTask, language_model
from completedp.resolved import Resolved

SHAPE = {"width": 32, "depth": 2, "head_dim": 16, "ffn": 48, "vocab_size": 256, "context": 16}
RUN = {"tokens": 2560, "batch": 256, "eval_tokens": 1024, "clip": 0.0}


def words(seed: int, size: int) -> str:
    """Text with something to learn: sentences of a small vocabulary."""
    random = np.random.default_rng(seed)
    lexicon = ["".join(random.choice(list("abcdefghij"), 4)) for _ in range(30)]
    lines = []
    while size > 0:
        lines.append(" ".join(random.choice(lexicon, 8)) + ".\n" * random.integers(1, 3))
        size -= len(lines[-1])
    return "".join(lines)


@pytest.fixture(scope="session")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "corpus.txt"
    path.write_text(words(0, 60_000))
    return path


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def arguments(build_arguments: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    return build_arguments


@pytest.fixture(scope="session")
def build_arguments(text_file: Path, cache: Path) -> Callable[..., dict[str, Any]]:
    """A job's arguments, with changes by part: `model={…}`, `train={…}`, others as they are."""

    def build(**changes: Any) -> dict[str, Any]:
        return {
            "data": {"source": str(text_file), "tokenizer": "bytes"},
            "split": "select",
            "cache": str(cache),
            "device": "cpu",
            **changes,
            "model": SHAPE | changes.get("model", {}),
            "train": RUN | changes.get("train", {}),
        }

    return build


@pytest.fixture
def task(arguments: Callable[..., dict[str, Any]]) -> Callable[..., LanguageModelTask]:
    return lambda **changes: language_model(**arguments(**changes))


def resolved_for(model: ModelConfig, lr: float = 0.01, **parts: Any) -> Resolved:
    """Rows at the base scale, which `parts` (`types`, `depth`) multiply."""
    hparams = HParams(global_=GlobalValues(lr=lr, eps=1e-6), **parts)
    return completedp.resolve(hparams, model.inventory(model), completedp.Ratios())


def losses_of(task: LanguageModelTask, resolved: Resolved, seed: int = 0) -> list[float]:
    """The training losses and, last, the evaluation's."""
    losses: list[float] = []
    steps: list[int] = []

    def report(step: int, loss: float) -> None:
        steps.append(step)
        losses.append(loss)

    result = task(resolved, seed, report)
    assert steps == list(
        range(task.train_config.steps + 1 - len(steps), task.train_config.steps + 1)
    )
    return [*losses, result.loss]
