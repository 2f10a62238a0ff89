"""Speech: half of the selected questions, never twice, refusals made up for, sidecars a function of verdicts."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tarsia.builders.clips import accept, verdicts
from tarsia.builders.documents import read_catalog, read_recipe, read_voices
from tarsia.builders.lake import Lake
from tarsia.builders.shards import members
from tarsia.builders.tables import get_table
from tarsia.builders.voices import Wave
from tarsia.pipelines.ingest import ingest
from tarsia.pipelines.plan import make_plans
from tarsia.pipelines.pool import open_pool
from tarsia.pipelines.speak import speak
from tarsia.schemas.errors import BadVoices, Refused, UnknownName

TONE = '''
"""A test engine: a tone as long as the text, silence for questions about thirteen. It counts what it is asked."""
from pathlib import Path
import numpy as np
from tarsia.builders.voices import Wave

LOG = Path(__file__).with_name("asked.txt")

def version():
    return "1"

def speak(spoken, *, language, options):
    with LOG.open("a") as log:
        log.write(f"{language} {spoken}\\n")
    if "thirteen" in spoken:
        return Wave(np.zeros(8000, np.int16), 16000)
    time = np.arange(800 * (len(spoken) + 10))
    return Wave((8000 * np.sin(time / (5 + len(options.get("pitch", ""))))).astype(np.int16), 16000)
'''


@pytest.fixture
def town(tmp_path, monkeypatch):
    """A corpus of 60 English questions, a recipe that hears half, and an engine of its own."""
    records = [
        {"id": str(n), "instruction": f"How many is {n} plus {n}?", "output": f"It is {2 * n}."} for n in range(60)
    ]
    (tmp_path / "sums.json").write_text(json.dumps(records))
    (tmp_path / "catalog.yaml").write_text(
        "corpora:\n  sums: {format: alpaca, kind: qa, language: en, licence: CC0, root: ., files: '*.json'}\n"
    )
    (tmp_path / "half.yaml").write_text(
        "model: half\nseed: 3\ncontext: {tokens: 600}\nstages:\n"
        "  small: {title: small, train: [llm], spoken: 50%, take: {qa: 20%}}\n"
        "  large: {title: large, train: [llm], spoken: 50%, take: {qa: 100%}}\n"
    )
    (tmp_path / "tone.yaml").write_text("voices: {tone-en: {engine: tone.engine, language: en}}\n")
    (tmp_path / "tone").mkdir()
    (tmp_path / "tone" / "engine.py").write_text(TONE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "tone.engine", raising=False)
    monkeypatch.delitem(__import__("sys").modules, "tone", raising=False)
    return tmp_path


def fill(town: Path, name: str = "lake") -> Lake:
    lake = Lake(str(town / name))
    with open_pool(1) as pool:
        ingest(read_catalog(town / "catalog.yaml"), lake, pool, quiet=True)
    return lake


def say(town: Path, lake: Lake, stages=(), voices: str = "tone.yaml"):
    with open_pool(1) as pool:
        return speak(
            read_recipe(str(town / "half.yaml")), lake, read_voices(str(town / voices)), pool, only=stages, quiet=True
        )


def asked(town: Path) -> list[str]:
    log = town / "tone" / "asked.txt"
    return log.read_text().splitlines() if log.exists() else []


def sidecar_rows(lake: Lake) -> list[dict]:
    return [
        row
        for state in lake.snapshot().speech
        for shard in state.shards
        for row in get_table(lake.store, shard.index).to_pylist()
    ]


def test_half_of_the_questions_are_spoken_and_refusals_are_made_up_for(town):
    lake = fill(town)
    small, large = say(town, lake)
    assert (small.selected, small.asked, small.spoken) == (12, 6, 6)
    assert (large.selected, large.asked, large.spoken) == (60, 30, 30)
    assert large.refused in ({}, {"silent": 1})  # only if question 13 was met on the walk


def test_a_refused_question_is_replaced_by_the_next_and_kept_with_its_reason(town):
    everything = (town / "half.yaml").read_text().replace("spoken: 50%", "spoken: 100%")
    (town / "half.yaml").write_text(everything)
    lake = fill(town)
    _, large = say(town, lake)
    assert (large.asked, large.spoken, large.refused) == (60, 59, {"silent": 1})
    refused = [(row["refused"], row["clips"]) for row in sidecar_rows(lake) if row["refused"]]
    assert refused == [([{"turn": 0, "reason": "silent"}], [])]


def test_a_later_stage_adds_to_the_sidecars_and_takes_nothing_away(town):
    lake = fill(town)
    say(town, lake, ["small"])
    small = {row["key"] for row in sidecar_rows(lake)}
    say(town, lake, ["large"])
    large = {row["key"] for row in sidecar_rows(lake)}
    assert len(small) == 6
    assert small < large


def test_equal_text_in_an_equal_voice_is_spoken_once_ever(town):
    records = [{"id": str(n), "instruction": f"What is number {n % 5}?", "output": "A number."} for n in range(60)]
    (town / "sums.json").write_text(json.dumps(records))
    lake = fill(town)
    say(town, lake)
    assert sorted(asked(town)) == sorted(set(asked(town)))
    assert len(asked(town)) == 5
    say(town, lake)
    assert len(asked(town)) == 5


def test_a_second_run_asks_for_nothing_and_changes_nothing(town):
    lake = fill(town)
    say(town, lake)
    count, before = len(asked(town)), lake.snapshot()
    say(town, lake)
    assert len(asked(town)) == count
    assert lake.snapshot() == before


def test_sidecars_are_the_same_bytes_whoever_worked_and_in_whatever_steps(town):
    one, two = fill(town, "one"), fill(town, "two")
    say(town, one)
    say(town, two, ["small"])
    say(town, two)
    objects = [
        sorted(
            (stored.path, stored.digest)
            for state in lake.snapshot().speech
            for shard in state.shards
            for stored in shard.objects
        )
        for lake in (one, two)
    ]
    assert objects[0] == objects[1]
    assert len(objects[0]) == 2


def test_an_edited_question_never_meets_its_old_clip(town):
    lake = fill(town)
    say(town, lake)
    records = [
        {"id": str(n), "instruction": f"How much is {n} and {n}?", "output": f"It is {2 * n}."} for n in range(60)
    ]
    (town / "sums.json").write_text(json.dumps(records))
    fill(town)
    with open_pool(1) as pool, pytest.raises(Exception, match="have no verdict yet; run tarsia speak"):
        make_plans(read_recipe(str(town / "half.yaml")), lake, pool, voices="tone", quiet=True)
    say(town, lake)
    spoken = {clip["spoken"] for row in sidecar_rows(lake) for clip in row["clips"]}
    assert all(text.startswith("How much is") for text in spoken)


def test_a_sidecar_holds_flac_under_the_keys_of_the_shards(town):
    lake = fill(town)
    say(town, lake, ["small"])
    state = lake.snapshot().speech[0]
    row = next(row for row in sidecar_rows(lake) if row["clips"])
    data = lake.store.read_range(state.shards[0].tar.path, row["offset"], row["length"])
    found = dict(members(data, row["key"]))
    assert sorted(found) == ["json", "q0.flac"]
    (town / "clip.flac").write_bytes(found["q0.flac"])
    info = soundfile.info(town / "clip.flac")
    clip = row["clips"][0]
    assert (info.frames, info.samplerate, info.channels) == (clip["samples"], 16000, 1)
    assert json.loads(found["json"])["clips"][0]["spoken"] == clip["spoken"]


def test_verdicts_written_first_win(town):
    lake = fill(town)
    say(town, lake)
    first = verdicts(lake.store, "tone")
    later = sorted(entry.path for entry in lake.store.list("verdicts/tone"))
    lake.store.create("verdicts/tone/99999999.parquet", lake.store.read(later[0]))
    assert verdicts(lake.store, "tone") == first


def test_two_voices_share_the_questions_by_their_shares(town):
    (town / "duo.yaml").write_text(
        "voices:\n  low: {engine: tone.engine, language: en, share: 3}\n"
        "  high: {engine: tone.engine, language: en, options: {pitch: aaaa}}\n"
    )
    lake = fill(town)
    say(town, lake, voices="duo.yaml")
    voices = [clip["voice"] for row in sidecar_rows(lake) for clip in row["clips"]]
    assert len(voices) == 30
    assert 15 <= voices.count("low") <= 29


def test_voices_that_cannot_be_used_are_said(town):
    lake = fill(town)
    (town / "chinese.yaml").write_text("voices: {tone-zh: {engine: tone.engine, language: zh}}\n")
    with pytest.raises(BadVoices, match="pool 'chinese' has no voice for 'en'"):
        say(town, lake, voices="chinese.yaml")
    (town / "typo.yaml").write_text("voices: {v: {engine: espaek, language: en}}\n")
    with pytest.raises(UnknownName, match="no engine 'espaek'; did you mean 'espeak'"):
        say(town, lake, voices="typo.yaml")


@pytest.mark.parametrize(
    ("wave", "reason"),
    [
        (Wave(np.zeros(0, np.int16), 16000), "silent"),
        (Wave(np.zeros(16000, np.int16), 16000), "silent"),
        (Wave(np.ones(4000, np.int16), 16000), "short"),
        (Wave(np.ones(31 * 16000, np.int16), 16000), "long"),
    ],
)
def test_sound_that_is_no_speech_is_refused(wave, reason):
    with pytest.raises(Refused) as refused:
        accept(wave)
    assert refused.value.code == reason
