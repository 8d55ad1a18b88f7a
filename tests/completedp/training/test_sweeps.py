"""The lines of a sweep: how far it is, and what is left."""

import itertools

from completedp.runs.job import Finished, Outcome
from completedp.training.sweeps import Countdown, progress


def test_the_time_left_goes_by_flops() -> None:
    clock = itertools.count(0, 36)  # a run ends every 36 seconds
    countdown = Countdown([1.0, 1.0, 16.0], now=lambda: next(clock))
    assert countdown.ended(1.0) == ("1/3", ", 10 min left")  # 17 units, of 36 s each
    assert countdown.ended(1.0) == ("2/3", ", 10 min left")
    assert countdown.ended(16.0) == ("3/3", "")


def test_a_line_names_its_run_and_its_place() -> None:
    clock, said = itertools.count(0, 7), list[str]()
    countdown = Countdown([2.0, 2.0], now=lambda: next(clock))
    shown = progress(["a", "b", "c"], [2.0, 2.0, 2.0], countdown, said.append)
    for trial, loss in ((2, 1.5), (0, None)):
        status = "diverged" if loss is None else "completed"
        shown(
            Finished(
                outcome=Outcome(
                    trial=trial, status=status, loss=loss, steps=3, tokens=3, seconds=2.0, seed=0
                )
            )
        )
    assert said == ["1/2 c: loss 1.5000, 2 s, 7 s left", "2/2 a: diverged, 2 s"]
