"""Starts searches on the bowl, each in a process of its own, and prints how many died.

`python starts.py FOLDER COUNT`: what a search imports is imported once, before the forks, but for MLflow.
Threads take turns every 10 µs, as on a busy machine, where one may be stopped anywhere; and there are as many
loggers as in a large program, so that who walks over them takes a while.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
from pathlib import Path

from rich.console import Console
from studies import job_factory, study_of

from completedp.config import DataConfig, ModelConfig, StudyConfig, TrainConfig
from completedp.hparams import GlobalValues
from completedp.runs.job import Event
from completedp.runs.local import InProcessExecutor
from search import study_folder, study_run
from search.display import display_on
from search.study_folder import StudyFolder

CONFIG = StudyConfig(
    model=ModelConfig(width=32, depth=2, head_dim=16, ffn=88, vocab_size=256, context=64),
    data=DataConfig(),
    train=TrainConfig(tokens=8192, batch=1024),
    values=GlobalValues(lr=2**-8),
)
LOGGERS = 20_000


class Begun(Exception):
    """The search has started."""


class First(InProcessExecutor):
    def poll(self, timeout: float) -> list[Event]:
        if super().poll(timeout):
            raise Begun
        return []


def started(root: Path) -> None:
    folder = StudyFolder(root=root, name="s")
    study_folder.create(folder, study_of(CONFIG, budget=12))
    try:
        study_run.run(
            folder, First(), job_factory(CONFIG), display=display_on(Console(stderr=True))
        )
    except Begun:
        return
    raise AssertionError("the search ended")


def main(folder: Path, count: int) -> None:
    assert "mlflow" not in sys.modules, "its import is a part of a start"
    sys.setswitchinterval(1e-5)
    for i in range(LOGGERS):
        logging.getLogger(f"logger-{i}")
    died = 0
    for i in range(count):
        pid = os.fork()
        if pid == 0:
            try:
                started(folder / str(i))
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        died += os.waitpid(pid, 0)[1] != 0
    print(died)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
