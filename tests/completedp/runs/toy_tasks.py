"""Training functions for the tests of the run engine: plain Python, importable by a worker."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from completedp.errors import UserError
from completedp.resolved import Resolved
from completedp.runs.job import Job, Limits, Report, Result

HERE = Path(__file__).parent
EMPTY = Resolved(tensors=(), residual={})

Body = Callable[[int, Report], float]


def job(trial: int, name: str = "steps", seed: int = 0, **arguments: object) -> Job:
    return Job(
        trial=trial, task=f"toy_tasks:{name}", arguments=arguments, resolved=EMPTY, seed=seed
    )


class Toy:
    """A training function whose body gives the evaluation loss."""

    def __init__(self, body: Body, limits: Limits) -> None:
        self.body = body
        self.limits = limits
        self.calls = 0

    def __call__(self, resolved: Resolved, seed: int, report: Report) -> Result:
        self.calls += 1
        loss = self.body(seed, report)
        metrics = {"calls": self.calls, "pid": os.getpid(), "broken": float("nan")}
        return Result(loss=loss, tokens=10 * self.limits.steps, metrics=metrics)


def steps(n: int = 3, pause: float = 0.0, final: str = "1", first: float = 2.0) -> Toy:
    """n steps of `pause` seconds with losses down from `first`; `final` is text, as JSON has no nan."""

    def body(seed: int, report: Report) -> float:
        for step in range(1, n + 1):
            time.sleep(pause)
            report(step, first / step + seed)
        return float(final)

    return Toy(body, Limits(steps=n, tokens_per_step=10))


def losses(values: list[float], warmup: int = 0, uniform: float = float("inf")) -> Toy:
    def body(seed: int, report: Report) -> float:
        for step, loss in enumerate(values, 1):
            report(step, loss)
        return values[-1]

    limits = Limits(
        steps=len(values), warmup_steps=warmup, uniform_loss=uniform, tokens_per_step=10
    )
    return Toy(body, limits)


def explode(at: int) -> Toy:
    """The training loss is NaN at a step."""
    return losses([1.0] * (at - 1) + [float("nan")] * 2)


def raises(message: str = "no memory left\nat all") -> Toy:
    def body(seed: int, report: Report) -> float:
        report(1, 1.0)
        raise RuntimeError(message)

    return Toy(body, Limits(steps=3))


def returns_nothing() -> Toy:
    class Silent(Toy):
        def __call__(self, resolved: Resolved, seed: int, report: Report) -> None:  # type: ignore[override]
            super().__call__(resolved, seed, report)

    return Silent(lambda seed, report: 1.0, Limits(steps=1))


def is_a_number() -> int:
    return 3


def mistaken() -> Toy:
    raise UserError("corpus: too short; give a longer one")


def hangs(flag: str, times: int) -> Toy:
    """Reports one step, then nothing for ever, the first `times` times; `flag` counts them over processes."""

    def body(seed: int, report: Report) -> float:
        path = Path(flag)
        before = len(path.read_bytes()) if path.exists() else 0
        report(1, 1.0)
        if before < times:
            path.write_bytes(b"x" * (before + 1))
            time.sleep(10_000)
        return 1.0

    return Toy(body, Limits(steps=2))


def killed(flag: str, times: int) -> Toy:
    """Kills its own process the first `times` times; `flag` counts them over processes."""

    def body(seed: int, report: Report) -> float:
        path = Path(flag)
        before = len(path.read_text()) if path.exists() else 0
        if before < times:
            path.write_text("x" * (before + 1))
            os.kill(os.getpid(), signal.SIGKILL)
        report(1, 1.0)
        return 1.0

    return Toy(body, Limits(steps=1))


def forks(pid_file: str) -> Toy:
    """Leaves a child that holds every descriptor, then is killed."""

    def body(seed: int, report: Report) -> float:
        child = os.fork()
        if child == 0:
            time.sleep(30)
            os._exit(0)
        Path(pid_file).write_text(str(child))
        os.kill(os.getpid(), signal.SIGKILL)
        return 0.0

    return Toy(body, Limits(steps=1))


def exits() -> Toy:
    print("the last words")
    raise SystemExit(3)


def announce(path: str, seconds: float, steps: int = 1) -> Toy:
    """Writes its pid, then steps of that many seconds each, without a word between."""

    def body(seed: int, report: Report) -> float:
        Path(path).write_text(str(os.getpid()))
        for step in range(1, steps + 1):
            time.sleep(seconds)
            report(step, 1.0)
        return 1.0

    return Toy(body, Limits(steps=steps))


def meet(folder: str, mine: str, theirs: str) -> Toy:
    """Ends only once the other job runs too: two workers really side by side."""

    def body(seed: int, report: Report) -> float:
        (Path(folder) / mine).touch()
        end = time.monotonic() + 10
        while not (Path(folder) / theirs).exists():
            if time.monotonic() > end:
                raise RuntimeError("never met")
            time.sleep(0.01)
        report(1, 1.0)
        return 1.0

    return Toy(body, Limits(steps=1))


def environment() -> Toy:
    """Prints what the worker is made of."""

    def body(seed: int, report: Report) -> float:
        heavy = {"torch", "numpy", "ax", "mlflow", "pydantic", "yaml", "typer", "rich"}
        print("heavy:", sorted(heavy & set(sys.modules)))
        print("threads:", os.environ.get("OMP_NUM_THREADS"))
        print("gpus:", os.environ.get("CUDA_VISIBLE_DEVICES"))
        print("package:", sys.modules["completedp"].__file__)
        print("descriptors:", len(os.listdir("/proc/self/fd")))
        report(1, 1.0)
        return 1.0

    return Toy(body, Limits(steps=1))


def torch_threads() -> Toy:
    def body(seed: int, report: Report) -> float:
        import torch

        report(1, 1.0)
        return float(torch.get_num_threads())

    return Toy(body, Limits(steps=1))
