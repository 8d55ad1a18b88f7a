"""The display of a running study: a live panel on a terminal, else one plain line per trial."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Protocol, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from completedp.runs.job import Died, Event, Finished, Progress
from completedp.runs.journal import TrialRecord
from search.phases import phase_named
from search.status import StudyStatus, status_of
from search.study import Study


class Display(Protocol):
    """Shows the engine's events. The caller enters and leaves it as a context."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def event(self, event: Event) -> None:
        """Show an event that the study already knows of."""

    def say(self, text: str) -> None:
        """Show a line that must stay readable: a warning or a decision."""


OnProgress = Callable[[Event, Study], object]


def status_in_words(study: Study) -> dict[str, str]:
    """The state of a study: a few words for each label. The verb `status` prints them too."""
    state = status_of(study)
    few = {
        "diverged": state.diverged,
        "stopped": state.stopped,
        "set aside": state.set_aside,
        "begun and not ended": state.unfinished,
    }
    runs = f"{state.done} of {state.budget} done"
    if state.spent != state.done:
        runs = f"{state.done} done, as costly as {state.spent:.1f} of {state.budget} proxy runs"
    words = {
        "runs": runs + "".join(f", {count} {what}" for what, count in few.items() if count),
        "phase": _phase(state),
    }
    for arm, label in (("global", "best global"), ("module", "best per module")):
        if arm in state.best:
            best = state.best[arm]
            words[label] = f"{best['loss']:.4f} nats (trial {best['trial']}, select split)"
    words["lead"] = _lead(state)
    return words


def _phase(state: StudyStatus) -> str:
    """The part of the budget that is being spent."""
    if state.stage == "done":
        return "done"
    if state.stage == "stuck":
        return "stuck: no global trial completed; begin a new study with a lower lr"
    title = phase_named(state.stage).title
    return f"{title}, {state.stage_done:.4g} of {state.stage_runs:.4g}"


def _lead(state: StudyStatus) -> str:
    """The per-module incumbent's difference to the global one: confirmed, else as the search sees it."""
    if (found := state.confirmed) is not None:
        return (
            f"{found['mean']:+.4f} [{found['low']:+.4f}, {found['high']:+.4f}] nats over "
            f"{found['pairs']} fresh paired seeds"
        )
    if state.lead is None:
        return "not yet known"
    scatter = "" if state.scatter is None else f" ± {state.scatter:.4f}"
    return f"{state.lead:+.4f}{scatter} nats (as the search sees it; to be confirmed)"


def trial_line(record: TrialRecord, budget: int) -> str:
    """The line of one finished trial."""
    width = len(str(budget - 1))
    seconds = f"{record.seconds:6.1f} s" if record.status != "set_aside" else " " * 8
    if record.status == "completed":
        assert record.loss is not None
        end = f"loss {record.loss:.4f}"
    else:
        status = (record.status or "running").replace("_", " ")
        end = f"{status}: {record.reason}" if record.reason else status
    which = {
        "ladder": " ({finalist} finalist, x {rung} FLOPs)",
        "confirm": " ({arm} arm)",
    }.get(record.phase, "").format_map(record.extra)
    return f"trial {record.trial:{width}d}  {record.phase:7s} {seconds}  {end}{which}"


def retry_line(event: Event, study: Study) -> str | None:
    """A line if a trial died and is tried again. A trial that is given up has its trial line: None."""
    if not isinstance(event, Died) or study.trials[event.trial].status is not None:
        return None
    return f"trial {event.trial} died ({event.reason}); it is tried again"


class PlainDisplay:
    """One line per trial, for logs."""

    def __init__(self, study: Study, console: Console) -> None:
        self._study = study
        self._console = console
        self._shown = {t.trial for t in study.trials.values() if t.status is not None}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._show_finished()

    def event(self, event: Event) -> None:
        if not isinstance(event, Progress):
            self._show_finished()
        if retry := retry_line(event, self._study):
            self.say(retry)

    def say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _show_finished(self) -> None:
        for record in self._study.trials.values():
            if record.status is not None and record.trial not in self._shown:
                self._shown.add(record.trial)
                self.say(trial_line(record, self._study.budget))


class LiveDisplay:
    """A panel that renews itself: counts, incumbents, lead, running trials and the time left."""

    RECENT = 6

    def __init__(self, study: Study, console: Console) -> None:
        self._study = study
        self._console = console
        self._progress: dict[int, Progress] = {}
        self._began = time.monotonic()
        self._spent_before = float(study.cost(study.ended))
        self._live = Live(
            console=console, get_renderable=self._render, refresh_per_second=2, transient=False
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def event(self, event: Event) -> None:
        if isinstance(event, Progress):
            self._progress[event.trial] = event
        elif isinstance(event, Finished):
            self._progress.pop(event.outcome.trial, None)
        else:
            self._progress.pop(event.trial, None)
        if retry := retry_line(event, self._study):
            self.say(retry)

    def say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _render(self) -> RenderableType:
        study = self._study
        spent = float(study.cost(study.ended))
        facts = Table.grid(padding=(0, 2))
        facts.add_row("study", f"{study.spec.name}   time left {self._time_left(spent)}")
        for name, text in status_in_words(study).items():
            facts.add_row(name, text)
        running = Table.grid(padding=(0, 2))
        for progress in sorted(self._progress.values(), key=lambda p: p.trial):
            running.add_row(
                f"trial {progress.trial}",
                ProgressBar(total=progress.steps, completed=progress.step, width=24),
                f"step {progress.step}/{progress.steps}",
                f"train loss {progress.loss:.3f}",
            )
        recent = [Text(trial_line(t, study.budget)) for t in study.ended[-self.RECENT :]]
        bar = Table.grid()  # a bar on its own does not end its line
        bar.add_row(ProgressBar(total=study.budget, completed=spent, width=60))
        return Group(facts, bar, running, *recent)

    def _time_left(self, spent: float) -> str:
        since = spent - self._spent_before
        if since < 2:
            return "not yet known"
        seconds = (time.monotonic() - self._began) / since * (self._study.budget - spent)
        return f"about {seconds / 60:.0f} min" if seconds >= 90 else f"about {seconds:.0f} s"


class Callback:
    """For programs: events go to a function, with the study. Lines go to the log."""

    def __init__(self, study: Study, on_progress: OnProgress | None) -> None:
        self._study = study
        self._on_progress = on_progress

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def event(self, event: Event) -> None:
        if self._on_progress is not None:
            self._on_progress(event, self._study)

    def say(self, text: str) -> None:
        logging.getLogger(__name__).warning(text)


def display_on(console: Console) -> Callable[[Study], Display]:
    """A function that makes the display of a study: live on a terminal, else plain."""
    kind = LiveDisplay if console.is_terminal else PlainDisplay
    return lambda study: kind(study, console)
