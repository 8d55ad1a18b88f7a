"""The program in this process, and a recipe at the smallest useful shape."""

import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Two processes run the tests. With a BLAS thread per core in each, a fifth of the time goes into waiting.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import settings

from completedp.config import DataConfig, ModelConfig, TrainConfig
from completedp.hparams import HParams
from completedp.recipe import Recipe

# A busy machine is no failure: the time of an example says nothing here.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@dataclass(frozen=True)
class Done:
    """A command line that has ended."""

    status: int
    out: str
    err: str


@pytest.fixture
def cli(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Iterator[Callable[..., Done]]:
    """Run the program in an empty folder and in this process: the imports of another take a second.

    An exception that leaves `main` fails the test. What the program takes over of its process is given back.
    """
    from completedp import interrupts
    from completedp.cli.app import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.unraisablehook", sys.unraisablehook)
    handlers = {number: signal.getsignal(number) for number in interrupts.SIGNALS}

    def run(*arguments: object) -> Done:
        monkeypatch.setattr("sys.argv", ["completedp", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return Done(int(ended.value.code or 0), captured.out, captured.err)

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session", autouse=True)
def migrated_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """MLflow makes an empty database by all its migrations, which takes a second or two. They run once in
    this process, and every later database begins as a copy."""
    from completedp.tracking import store

    connected = store._connected
    empty = tmp_path_factory.mktemp("migrated") / "empty.db"

    def quickly(client_class: Any, path: Path) -> Any:
        if not path.exists():
            if not empty.exists():
                new = empty.with_name("new.db")
                connected(client_class, new)
                new.rename(empty)
            shutil.copyfile(empty, path)
        return connected(client_class, path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "_connected", quickly)
        yield


@pytest.fixture(scope="session")
def recipe() -> Recipe:
    """Every kind is off its default somewhere, so that a value taken from the wrong place shows."""
    base = {"lr": 4e-3, "weight_decay": 0.1, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8}
    return Recipe(
        parameterization="completed-p",
        model=ModelConfig(width=32, depth=2, head_dim=16, ffn=88, vocab_size=256, context=64),
        data=DataConfig(),
        train=TrainConfig(tokens=256 * 24, batch=256, eval_tokens=1024),
        hparams=HParams.from_dict(
            {
                "global": {**base, "residual_ffn": 0.7},
                "types": {
                    "lr": {"unembedding": 6.0, "q": 0.3, "ffn_norm": 2.0},
                    "weight_decay": {"embedding": 4.0},
                    "beta1": {"v": 0.5},
                    "beta2": {"unembedding": 3.0},
                    "eps": {"k": 10.0},
                    "init_scale": {"attention_out": 0.5},
                    "residual": {"attention": 1.5},
                },
                "depth": {"lr": [1.5, 0.75], "residual": [0.8, 1.2]},
            }
        ),
        baseline=HParams.from_dict({"global": base}),
        provenance={"seeds": [0, 1], "data_digest": "sha256:00"},
    )
