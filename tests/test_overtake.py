"""A takedown while voices are speaking: what was erased comes back in no clip, no verdict, no sidecar, no order."""

import io
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("wetext", reason="wetext is not installed: pip install 'tarsia[speech]'")

from test_speak import asked, fill, say, sidecar_objects, sidecar_rows, town  # noqa: F401

from tarsia.builders.clips import read_verdicts
from tarsia.builders.lake import Lake
from tarsia.builders.tables import read_parquet
from tarsia.pipelines import speak as speaking
from tarsia.pipelines.sidecars import Sidecar
from tarsia.schemas.errors import UserError
from tarsia.schemas.identity import key_of
from tests.test_takedown import take

ALL = ["all"]


@pytest.fixture
def place(town):  # noqa: F811
    """The town with a stage that hears every question, and the question that a voice is asked second."""
    with (town / "half.yaml").open("a") as page:
        page.write("  all: {title: all, train: [llm], spoken: 100%, take: {qa: 100%}}\n")
    say(town, fill(town, "before"), ALL)
    second = asked(town)[1].removeprefix("en ")
    (town / "tone" / "asked.txt").unlink()
    row = next(row for row in sidecar_rows(Lake(str(town / "before"))) if row["clips"][0]["spoken"] == second)
    number = next(str(number) for number in range(60) if key_of("sums", str(number)) == row["key"])
    return town, number, second


def script(town, lake, number, after=""):  # noqa: F811
    """What the engine does once, when it is asked for the first time."""
    here = str(Path(__file__).parents[1])
    text = f"import sys; sys.path[:0] = [{here!r}, {here + '/tests'!r}]\nimport test_overtake\n"
    text += f"test_overtake.take(test_overtake.Lake({lake.url!r}), ('sums', {number!r}))\n{after}\n"
    (town / "tone" / "meanwhile.py").write_text(text)


def nothing_is_left(lake, number, spoken):
    """No verdict, clip or order, and no row of the sidecars that stand."""
    verdicts = [read_verdicts(lake.store, entry.path) for entry in lake.store.list("verdicts")]
    assert spoken not in [text for table in verdicts for text in table["spoken"].to_pylist()]
    named = {tar for table in verdicts for tar in table["tar"].drop_null().to_pylist()}
    clips = [row["clip"] for table in verdicts for row in table.to_pylist() if row["tar"]]
    assert named <= {entry.path for entry in lake.store.list("clips")}
    held = b"".join(lake.store.read(path) for path in sorted(named))
    assert held.count(b".flac") == len(clips)
    assert key_of("sums", number) not in [row["key"] for row in sidecar_rows(lake)]
    for entry in lake.store.list("work/speak"):
        orders = read_parquet(io.BytesIO(lake.store.read(entry.path)), entry.path)
        assert spoken not in orders["spoken"].to_pylist()


def as_if_it_came_first(town, lake, number):  # noqa: F811
    """The sidecars are those of a lake whose record was taken down before anyone spoke."""
    other = fill(town, "first")
    take(other, ("sums", number))
    say(town, other, ALL)
    assert sidecar_objects(lake) == sidecar_objects(other)


def test_a_question_that_is_taken_down_while_tasks_speak_is_erased_when_they_have_ended(place):
    town, number, spoken = place  # noqa: F811
    lake = fill(town)
    script(town, lake, number)
    (report,) = say(town, lake, ALL)
    assert report.spoken == 58  # one is refused, one is gone
    assert f"en {spoken}" in asked(town)  # the task had read its orders
    nothing_is_left(lake, number, spoken)
    assert not list(lake.store.list("work"))
    as_if_it_came_first(town, lake, number)


def test_a_question_that_is_taken_down_before_the_orders_are_stored_is_never_asked(place, monkeypatch):
    town, number, spoken = place  # noqa: F811
    lake, put = fill(town), speaking.put_orders

    def late(*given):
        monkeypatch.setattr(speaking, "put_orders", put)
        take(lake, ("sums", number))
        return put(*given)

    monkeypatch.setattr(speaking, "put_orders", late)
    (report,) = say(town, lake, ALL)
    assert report.spoken == 58
    assert f"en {spoken}" not in asked(town)
    nothing_is_left(lake, number, spoken)
    assert not list(lake.store.list("work"))


def test_sidecars_that_were_gathered_meanwhile_are_gathered_anew(place, monkeypatch):
    town, number, spoken = place  # noqa: F811
    lake, run = fill(town), Sidecar.run

    def late(self):
        monkeypatch.setattr(Sidecar, "run", run)
        take(lake, ("sums", number))
        return run(self)

    monkeypatch.setattr(Sidecar, "run", late)
    (report,) = say(town, lake, ALL)
    assert report.spoken == 58
    nothing_is_left(lake, number, spoken)
    as_if_it_came_first(town, lake, number)


def test_what_a_killed_job_had_sealed_is_erased_by_the_next(place):
    town, number, spoken = place  # noqa: F811
    lake = fill(town)
    script(town, lake, number, "import os; os.environ['DOOMED'] = '1'")
    killed = f"""
import os, signal, sys
sys.path[:0] = [{str(town)!r}, {str(Path(__file__).parents[1])!r}, {str(Path(__file__).parent)!r}]
from pathlib import Path
import test_overtake
from tarsia.builders import clips
clips.SEGMENT = 1
seal = clips.seal
def sealed(store, pool, decided):
    seal(store, pool, decided)
    if os.environ.get("DOOMED") and len(list(store.list("verdicts"))) > 4:
        os.kill(os.getpid(), signal.SIGKILL)
clips.seal = sealed
test_overtake.say(Path({str(town)!r}), test_overtake.Lake({lake.url!r}), ["all"])
"""
    done = subprocess.run([sys.executable, "-c", killed], check=False)
    assert done.returncode == -signal.SIGKILL
    tables = [read_verdicts(lake.store, entry.path) for entry in lake.store.list("verdicts")]
    assert any(spoken in table["spoken"].to_pylist() for table in tables)
    (report,) = say(town, lake, ALL)
    assert report.spoken == 58
    nothing_is_left(lake, number, spoken)
    as_if_it_came_first(town, lake, number)


def test_nobody_speaks_while_a_takedown_has_begun_and_not_ended(place, monkeypatch):
    town, number, spoken = place  # noqa: F811
    lake = fill(town)
    with monkeypatch.context() as cut:
        cut.setattr("tarsia.pipelines.takedown._erase", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            take(lake, ("sums", number))
    with pytest.raises(UserError, match="records of corpus 'sums' are being taken down; run this again when"):
        say(town, lake, ALL)
    assert asked(town) == []
    assert not list(lake.store.list("work"))
    take(lake, ("sums", number))
    assert say(town, lake, ALL)[0].spoken == 58
    nothing_is_left(lake, number, spoken)
