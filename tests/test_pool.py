"""Tasks run once, wherever: results come in order, errors cross processes whole, a dead worker is said."""

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from tarsia.builders.storage import open_store
from tarsia.pipelines.pool import finish, open_pool
from tarsia.pipelines.progress import Progress
from tarsia.pipelines.tasks import bounded, work
from tarsia.schemas.errors import Corrupt, TarsiaError, UnknownName

QUIET = Progress("test", "tasks", quiet=True)


@dataclass(frozen=True)
class Square:
    """Squares a number and notes that it ran."""

    lake: str
    number: int

    @property
    def record(self):
        return f"commits/squares/{self.number:03d}.json"

    def run(self):
        with Path(self.lake, "ran").open("a") as file:
            file.write(f"{self.number}\n")
        return {"square": self.number**2}


@dataclass(frozen=True)
class Trip(Square):
    """Fails as told."""

    how: str = ""

    def run(self):
        if self.how == "name":
            raise UnknownName("format", "lava", ["llava", "coco"], "corpus 'a'")
        if self.how == "die":
            os._exit(9)
        return {"process": os.getpid()}


@pytest.fixture(params=["here", "processes"])
def pool(request):
    with open_pool(1 if request.param == "here" else 2, patience=0) as pool:
        yield pool


def squares(lake, numbers):
    return [Square(str(lake), number) for number in numbers]


def test_results_come_in_the_order_of_the_tasks(pool, tmp_path):
    results = finish(squares(tmp_path, range(20)), pool, QUIET)
    assert results == [{"square": number**2} for number in range(20)]


def test_what_is_recorded_is_not_run_again(pool, tmp_path):
    finish(squares(tmp_path, range(3)), pool, QUIET)
    results = finish(squares(tmp_path, range(6)), pool, QUIET)
    assert results == [{"square": number**2} for number in range(6)]
    assert sorted((tmp_path / "ran").read_text().split()) == ["0", "1", "2", "3", "4", "5"]


def test_a_mistake_is_the_same_wherever_it_happens(pool, tmp_path):
    with pytest.raises(UnknownName, match=r"^corpus 'a': no format 'lava'; did you mean 'llava'\?"):
        finish([Trip(str(tmp_path), number, "name") for number in range(2)], pool, QUIET)


def test_a_worker_that_dies_is_said_and_what_was_done_counts(tmp_path):
    with open_pool(1) as pool:
        finish(squares(tmp_path, [0]), pool, QUIET)
    tasks = [*squares(tmp_path, [0]), Trip(str(tmp_path), 1, "die"), Trip(str(tmp_path), 2, "die")]
    said = r"a worker process died .* run the same command again"
    with pytest.raises(TarsiaError, match=said), open_pool(2, patience=0) as pool:
        finish(tasks, pool, QUIET)
    assert [entry.path for entry in open_store(str(tmp_path)).list("commits")] == ["commits/squares/000.json"]


def test_twins_may_both_finish_if_they_agree(tmp_path):
    task = Square(str(tmp_path), 3)
    assert work(task) == work(task) == {"square": 9}


def test_twins_that_disagree_are_an_alarm(tmp_path):
    work(Square(str(tmp_path), 3))
    with pytest.raises(Corrupt, match=r"commits/squares/003\.json: two runs of one task gave different results"):
        work(Trip(str(tmp_path), 3))


def test_a_small_job_starts_no_process(tmp_path):
    with open_pool(2, patience=60) as pool:
        (result,) = finish([Trip(str(tmp_path), 1)], pool, QUIET)
    assert result == {"process": os.getpid()}


def test_only_so_many_tasks_are_in_flight():
    flying, most = set(), []

    def submit(task):
        flying.add(task)
        most.append(len(flying))
        return task

    def done(tickets):
        flying.discard(tickets[0])
        return tickets[:1]

    assert sorted(bounded(range(10), submit, 3, done)) == [(task, task) for task in range(10)]
    assert max(most) == 3


def test_progress_tells_a_log_what_was_there_already_and_quiet_tells_nothing(capsys):
    for quiet in (False, True):
        progress = Progress("build", "shards", quiet=quiet)
        progress.start(10, done=4)
        progress.step()
        progress.stop()
    assert capsys.readouterr().err == "build: 4 of 10 shards were there already\n"
