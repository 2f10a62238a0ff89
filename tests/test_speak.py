"""Speech: half of the selected questions, never twice, refusals made up for, sidecars a function of verdicts."""

import json
from collections import Counter
from pathlib import Path
from threading import Thread

import numpy as np
import pyarrow as pa
import pytest
import soundfile
from lakes import verdicts

from tarsia.builders.clips import accept
from tarsia.builders.desk import Tally
from tarsia.builders.documents import read_catalog, read_recipe, read_voices
from tarsia.builders.lake import Lake
from tarsia.builders.shards import members
from tarsia.builders.tables import get_table, read_parquet, to_parquet
from tarsia.builders.voices import Wave
from tarsia.pipelines import show, sidecars
from tarsia.pipelines.estimate import estimate
from tarsia.pipelines.ingest import ingest
from tarsia.pipelines.plan import make_plans
from tarsia.pipelines.pool import open_pool
from tarsia.pipelines.speak import Speech, speak, voiced
from tarsia.pipelines.told import Spoken
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
    meanwhile = Path(__file__).with_name("meanwhile.py")
    if meanwhile.exists():
        text = meanwhile.read_text()
        meanwhile.unlink()
        exec(text)
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
        pages = read_recipe(str(town / "half.yaml")), lake, read_voices(str(town / voices))
        return speak(*pages, pool, only=stages, quiet=True).questions


def asked(town: Path) -> list[str]:
    log = town / "tone" / "asked.txt"
    return log.read_text().splitlines() if log.exists() else []


def sidecar_objects(lake: Lake) -> list[tuple[str, str]]:
    return sorted(
        (stored.path, stored.digest)
        for state in lake.snapshot().speech
        for shard in state.shards
        for stored in shard.objects
    )


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
    assert sidecar_objects(one) == sidecar_objects(two)
    assert len(sidecar_objects(one)) == 2


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
    found = members(data, row["key"])
    assert sorted(found) == ["json", "q0.flac"]
    (town / "clip.flac").write_bytes(found["q0.flac"])
    info = soundfile.info(town / "clip.flac")
    clip = row["clips"][0]
    assert (info.frames, info.samplerate, info.channels) == (clip["samples"], 16000, 1)
    assert json.loads(found["json"])["clips"][0]["spoken"] == clip["spoken"]


def get_verdicts(lake: Lake, path: str) -> pa.Table:
    with lake.store.open(path) as file:
        return read_parquet(file, path)


def test_verdicts_written_first_win(town):
    lake = fill(town)
    say(town, lake)
    first = verdicts(lake, "tone")
    later = sorted(entry.path for entry in lake.store.list("verdicts/tone"))
    rows = get_verdicts(lake, later[0])
    rows = rows.set_column(rows.schema.get_field_index("seeds"), "seeds", pa.array([9] * len(rows), pa.int32()))
    lake.store.create("verdicts/tone/99999998.parquet", to_parquet(rows))
    assert len(first) == len(asked(town))
    assert verdicts(lake, "tone") == first


DUO = """voices:
  low: {{engine: tone.engine, language: en}}
  high: {{engine: tone.engine, language: en, options: {{pitch: {0}}}}}
"""


def test_a_run_that_finds_everything_decided_reads_no_text_no_verdict_and_no_clip(town):
    lake = fill(town)
    reports, before = say(town, lake), lake.snapshot()
    for folder in ("verdicts", "clips", "spoken", "commits/speech"):
        for entry in list(lake.store.list(folder)):
            lake.store.delete(entry.path)
    for state in before.corpora:
        for shard in state.shards:
            lake.store.delete(shard.text.path)
    assert say(town, lake) == reports
    assert lake.snapshot() == before


def test_a_replaced_voice_is_asked_only_for_what_it_had_said_and_only_sidecars_change(town):
    (town / "duo.yaml").write_text(DUO.format("aaaa"))
    lake = fill(town)
    say(town, lake, voices="duo.yaml")
    before, once = lake.snapshot(), asked(town)
    then = {row["key"]: row["clips"][0] for row in sidecar_rows(lake) if row["clips"]}
    (town / "duo.yaml").write_text(DUO.format("aaaaaaaaa"))
    say(town, lake, voices="duo.yaml")
    now = {row["key"]: row["clips"][0] for row in sidecar_rows(lake) if row["clips"]}
    changed = {key for key in then if then[key] != now.get(key)}
    assert changed == {key for key in then if then[key]["voice"] == "high"}
    assert len(asked(town)) - len(once) == len({then[key]["spoken"] for key in changed})
    assert lake.snapshot().corpora == before.corpora
    assert lake.snapshot().speech != before.speech
    (town / "duo.yaml").write_text(DUO.format("aaaa"))
    count = len(asked(town))
    say(town, lake, voices="duo.yaml")
    assert (lake.snapshot().speech, len(asked(town))) == (before.speech, count)


def test_other_rules_make_other_words_and_equal_words_are_not_spoken_again(town):
    lake = fill(town)
    reports, count, before = say(town, lake), len(asked(town)), lake.snapshot()
    lake.publish(
        lambda newest: newest.model_copy(
            update={"speech": tuple(state.model_copy(update={"rules": "older"}) for state in newest.speech)}
        )
    )
    assert say(town, lake) == reports
    assert (lake.snapshot().speech, len(asked(town))) == (before.speech, count)


def test_what_a_question_becomes_is_kept_for_all_voices(town):
    lake = fill(town)
    say(town, lake)
    (entry,) = lake.store.list("spoken")
    kept = get_verdicts(lake, entry.path)
    told = [f"{text} So it was kept." for text in kept["spoken"].to_pylist()]
    lake.store.replace(entry.path, to_parquet(kept.set_column(1, "spoken", pa.array(told))))
    (town / "other.yaml").write_text("voices: {v: {engine: tone.engine, language: en, options: {pitch: a}}}\n")
    say(town, lake, voices="other.yaml")
    spoken = [clip["spoken"] for row in sidecar_rows(lake) for clip in row["clips"]]
    assert sum(text.endswith("So it was kept.") for text in spoken) == 30
    assert len(list(lake.store.list("spoken"))) == 1


def test_a_job_that_is_overtaken_by_another_loses_nothing_of_either(town):
    """The first question of the large stage waits until another job has spoken and published the small one."""
    apart, lake = fill(town, "apart"), fill(town)
    say(town, apart)
    spoken = len(asked(town))
    (town / "tone" / "asked.txt").unlink()
    script = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\nimport test_speak\n"
    script += f"test_speak.say(Path({str(town)!r}), test_speak.Lake({lake.url!r}), ['small'])\n"
    (town / "tone" / "meanwhile.py").write_text(script)
    say(town, lake, ["large"])
    assert not (town / "tone" / "meanwhile.py").exists()
    assert spoken <= len(asked(town)) <= spoken + 6  # both may have asked for what both want
    assert sidecar_objects(lake) == sidecar_objects(apart)


@pytest.mark.parametrize("stages", [("small", "large"), ("large", "large")])
def test_two_jobs_at_once_end_with_what_one_would_have_made(town, stages):
    apart, lake = fill(town, "apart"), fill(town)
    say(town, apart, sorted(set(stages)))
    jobs = [Thread(target=say, args=(town, Lake(lake.url), [stage])) for stage in stages]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert sidecar_objects(lake) == sidecar_objects(apart)
    assert not list(lake.store.list("work"))


def test_sidecars_whose_verdicts_are_gone_are_spoken_anew_when_they_are_rewritten(town):
    lake = fill(town)
    say(town, lake, ["small"])
    for entry in list(lake.store.list("verdicts")):
        lake.store.delete(entry.path)
    _, large = say(town, lake)
    assert large.spoken == 30
    assert sum(len(row["clips"]) for row in sidecar_rows(lake)) == 30


def test_only_leaves_in_which_something_was_decided_are_written(town, monkeypatch):
    monkeypatch.setattr(sidecars, "CAP", 4)
    lake = fill(town)
    say(town, lake, ["small"])
    before = {shard.leaf: shard for shard in lake.snapshot().speech[0].shards}
    say(town, lake)
    after = {shard.leaf: shard for shard in lake.snapshot().speech[0].shards}
    assert len(after) > len(before) > 1
    kept = {leaf for leaf in before if after.get(leaf) == before[leaf]}
    other = fill(town, "other")
    say(town, other)
    assert {shard.leaf: shard for shard in other.snapshot().speech[0].shards} == after
    written = sum(1 for entry in lake.store.list("commits/speech"))
    assert written == len(before) + len(after) - len(kept)


def test_a_dry_run_counts_what_is_missing_and_leaves_everything_as_it_is(town):
    lake = fill(town)
    say(town, lake, ["small"])
    before, count = sorted(lake.store.list()), len(asked(town))
    page = read_recipe(str(town / "half.yaml")), lake, read_voices(str(town / "tone.yaml"))
    with open_pool(1) as pool:
        sums = estimate(*page, pool, quiet=True)
    assert (sorted(lake.store.list()), len(asked(town))) == (before, count)
    small, large = sums.questions
    assert (small.spoken, small.missing) == (6, 0)
    assert large.spoken + large.missing == 30
    (voice,) = sums.voices
    assert voice.texts == large.missing
    assert 0 < voice.hours < 30 * 3 / 3600
    assert voice.characters == pytest.approx(voice.texts * len("How many is 10 plus 10?"), rel=0.1)
    assert show.estimated(sums).splitlines()[-1].startswith("upper bounds; 0.03 s of work")
    say(town, lake)
    with open_pool(1) as pool:
        assert estimate(*page, pool, quiet=True).voices[0].texts == 0


def test_a_corpus_of_two_languages_is_counted_by_language(town):
    records = [{"id": str(n), "instruction": f"How much is {n} and {n}?", "output": "So much."} for n in range(40)]
    records += [{"id": f"z{n}", "instruction": f"{n}加{n}等于多少？", "output": "不多也不少。"} for n in range(20)]
    (town / "sums.json").write_text(json.dumps(records))
    catalog = (town / "catalog.yaml").read_text()
    (town / "catalog.yaml").write_text(catalog.replace("language: en", "language: zh+en"))
    (town / "both.yaml").write_text(
        "voices:\n  e: {engine: tone.engine, language: en}\n  z: {engine: tone.engine, language: zh}\n"
    )
    report = say(town, fill(town), ["large"], voices="both.yaml")[0]
    english, chinese = report.languages["en"], report.languages["zh"]
    assert (english.selected, chinese.selected, report.selected) == (40, 20, 60)
    assert english.spoken + chinese.spoken == report.spoken == report.asked == 30
    assert min(english.spoken, chinese.spoken) > 5
    head, *rows = show.spoken(Speech(questions=(report,))).splitlines()
    assert head.split()[:3] == ["stage", "corpus", "lang"]
    assert [row.split()[2] for row in rows[:3]] == ["en", "zh", "all"]


def test_a_voice_that_stands_out_is_named():
    usual = {name: Tally(asked=100, accepted=98, refused=Counter({"hasty": 2})) for name in ("a", "b", "c")}
    bad = Tally(asked=100, accepted=70, refused=Counter({"hasty": 20, "drawn-out": 10}))
    said = show.spoken(Speech(questions=(SPOKEN,), voices=tuple(voiced({**usual, "d": bad}))))
    assert said.endswith(
        "voice 'd' stands out: 30.0% of its draws are refused, where 2.0% is usual; "
        "check its reference clip and its transcript"
    )


SPOKEN = Spoken(stage="s", corpus="c", kind="qa", selected=2, asked=1, speakable=2, spoken=1, refused={}, languages={})


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
