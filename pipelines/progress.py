"""Progress on stderr: a bar with count, rate and time left on a terminal, a line now and then elsewhere."""

import sys
import time
from typing import Any


class Progress:
    """Progress of one phase. `quiet` says nothing at all."""

    def __init__(self, title: str, unit: str, *, quiet: bool = False) -> None:
        self._title = title
        self._unit = unit
        self._quiet = quiet
        self._bar: Any = None
        self._total = self._done = self._before = 0
        self._note = ""
        self._began = self._said = 0.0

    def start(self, total: int, done: int = 0) -> None:
        """Begins with `done` of `total` already there from an earlier run."""
        self._total, self._done, self._before = total, done, done
        self._began = self._said = time.monotonic()
        if self._quiet or total == done:
            return
        if sys.stderr.isatty():
            self._bar = _bar()
            self._bar.start()
            self._task = self._bar.add_task(self._what, total=total, completed=done)
        elif done:
            self._say(f"{done} of {total} {self._unit} were there already")

    def step(self, count: int = 1, note: str = "") -> None:
        """`count` more are done; `note` is what else there is to say at this moment."""
        self._done += count
        self._note = note or self._note
        if self._bar:
            self._bar.update(self._task, advance=count, description=", ".join(filter(None, (self._what, self._note))))
        elif not self._quiet and time.monotonic() - self._said >= 5:
            self._said = time.monotonic()
            rate = (self._done - self._before) / (self._said - self._began)
            left = (self._total - self._done) / rate if rate else 0
            said = (f"{self._done} of {self._total} {self._unit}, {rate:,.1f} a second, {left:,.0f} s left", self._note)
            self._say(", ".join(filter(None, said)))

    def stop(self) -> None:
        """Ends the phase."""
        if self._bar:
            self._bar.stop()
            self._bar = None

    @property
    def _what(self) -> str:
        return f"{self._title} ({self._unit})"

    def _say(self, text: str) -> None:
        print(f"{self._title}: {text}", file=sys.stderr, flush=True)


def _bar() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Any) -> Text:
            return Text(f"{task.speed:,.1f}/s" if task.speed else "", style="progress.data.speed")

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn())
    return Bar(*columns, console=Console(stderr=True), transient=True)
