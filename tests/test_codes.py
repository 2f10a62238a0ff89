"""Codes of a codec beside the lake's speech: checked against the sounds, found by key, never those of another sound."""

import pickle

import numpy as np
import pytest
import soundfile
from lakes import fill, plan, recipe

from tarsia.builders.codes import Coded, Codes, put_codes, sounds_of
from tarsia.builders.tables import get_table
from tarsia.manifests.audit import audit
from tarsia.manifests.collate import Decoder
from tarsia.manifests.stream import Stream
from tarsia.manifests.utterances import Pairs
from tarsia.pipelines.prune import prune
from tarsia.schemas.errors import BadCodes, NotThere
from tarsia.schemas.identity import key_of
from tests.test_takedown import take

SECONDS = [0.9, 1.7, 1.2]


def recorded(town, seconds):
    (town / "LJ/wavs").mkdir(parents=True, exist_ok=True)
    for number, length in enumerate(seconds):
        wave = (9000 * np.sin(np.arange(round(length * 22_050)) / (8 + number))).astype(np.int16)
        soundfile.write(town / f"LJ/wavs/L{number}.wav", wave, 22_050)
    (town / "LJ/metadata.csv").write_text("".join(f"L{n}|raw|It was calm on day {n}.\n" for n in range(len(seconds))))
    corpora = {
        "voices": ({"format": "ljspeech", "kind": "tts", "root": "LJ"}, None),
        "talk": [{"id": "1", "instruction": "Who?", "output": "He."}],
    }
    return fill(town, corpora)


@pytest.fixture
def lake(tmp_path):
    return recorded(tmp_path, SECONDS)


def coded(lake, step=1):
    return [
        Coded(key, (np.arange(-(-samples // 600)) * step + number) % 1024, [7, 9], samples, sound)
        for number, (key, sounds) in enumerate(sorted(sounds_of(lake, "voices").items()))
        for sound, samples in sounds.items()
    ]


def test_codes_are_found_by_key_and_given_to_the_decoders(lake):
    rows = coded(lake)
    state = put_codes(lake, "ticodec", "voices", reversed(rows))
    assert [stored.path.rpartition("-")[0] for shard in state.shards for stored in shard.objects] == [
        "codec/ticodec/voices/b"
    ]
    plan(lake, recipe({"tts": {"take": {"tts": "100%"}, "pack": False}}))
    codes = pickle.loads(pickle.dumps(Codes(lake.url, "ticodec")))
    stream = Stream(lake.url, "small/tts", batch=3)
    (batch,) = list(Decoder(stream.manifest.context, Pairs(codes))(stream))
    given = {one.key: np.asarray(one.codes).tolist() for one in rows}
    for (key,), row, size in zip(batch.keys, batch["y"], batch["y_lens"], strict=True):
        assert row[:size].tolist() == given[key]
    assert sorted(batch["y_lens"].tolist()) == sorted(round(seconds * 40) for seconds in SECONDS)
    assert codes.row(rows[0].key)["style"] == [7, 9]


def test_codes_come_in_steps_and_the_lake_is_as_if_they_had_come_at_once(lake):
    rows = coded(lake)
    put_codes(lake, "ticodec", "voices", coded(lake, step=3)[:2])
    state = put_codes(lake, "ticodec", "voices", rows)
    number = lake.snapshot().number
    assert put_codes(lake, "ticodec", "voices", rows[:1]) == state
    assert lake.snapshot().number == number
    assert lake.snapshot().digest == recorded_digest(lake)


def recorded_digest(lake):
    return lake.snapshot().model_copy(update={"codes": ()}).digest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sound": "0" * 32}, "the lake has no such sound of it as 0000"),
        ({"samples": 600}, "600 samples, its sound has 21600 at 24 kHz"),
        ({"codes": [1, 2, 3]}, "3 codes, 36 are due, one for every 600 samples"),
        ({"codes": [1024] * 36}, "codes are whole numbers from 0 to 1023"),
        ({"codes": [-1] * 36}, "codes are whole numbers from 0 to 1023"),
        ({"codes": [0.5] * 36}, "codes are whole numbers from 0 to 1023"),
        ({"style": [70_000]}, "style is a row of whole numbers"),
        ({"key": "f" * 32}, "the lake has no such sound"),
    ],
)
def test_what_is_no_code_of_a_sound_is_refused(lake, change, message):
    row = next(one for one in coded(lake) if one.samples == 21_600)
    with pytest.raises(BadCodes, match=message):
        put_codes(lake, "ticodec", "voices", [row._replace(**change)])
    assert lake.snapshot().codes == ()


def test_only_corpora_that_are_spoken_have_codes(lake):
    with pytest.raises(BadCodes, match="no corpus 'talk' of kind tts"):
        put_codes(lake, "ticodec", "talk", [])
    with pytest.raises(NotThere, match="no codes of 'other'; there are codes of: none"):
        Codes(lake.url, "other")


def test_an_edited_recording_never_meets_its_old_codes(lake, tmp_path):
    put_codes(lake, "ticodec", "voices", coded(lake))
    edited = recorded(tmp_path, [0.9, 1.1, 1.2])
    codes = Codes(edited.url, "ticodec")
    found = [codes.row(key) is not None for key in sounds_of(edited, "voices")]
    assert sorted(found) == [False, True, True]
    lost = next(key for key in sounds_of(edited, "voices") if codes.row(key) is None)
    with pytest.raises(NotThere, match="has no codes of 'ticodec'"):
        codes(lost, 0)


def test_prune_keeps_codes_while_they_are_named_and_drops_them_afterwards(lake):
    put_codes(lake, "ticodec", "voices", coded(lake, step=3))
    old = lake.snapshot().codes[0].shards[0].objects[0].path
    put_codes(lake, "ticodec", "voices", coded(lake))
    (manifest,) = plan(lake, recipe({"tts": {"take": {"tts": "100%"}, "pack": False}}))
    put_codes(lake, "other", "voices", coded(lake)[:1])
    done = prune(lake, hours=0)
    assert done.objects["codec"] == 1
    assert lake.store.entry(old) is None
    for codec, count in (("ticodec", 3), ("other", 1)):
        codes = Codes(lake.url, codec)
        assert sum(codes.row(key) is not None for key in sounds_of(lake, "voices")) == count
    assert audit(lake, [manifest], deep=True).findings == ()


def test_codes_of_what_was_taken_down_are_erased_and_come_back_in_no_way(lake):
    rows = coded(lake)
    put_codes(lake, "ticodec", "voices", rows)
    page = recipe({"tts": {"take": {"tts": "100%"}, "pack": False}})
    plan(lake, page)
    before = lake.snapshot()
    receipt = take(lake, ("voices", "L1")).receipt
    gone = key_of("voices", "L1")
    assert receipt.rewritten["codec"] == 1
    assert [path for path in receipt.lying if path.startswith("codec/")] == [before.codes[0].shards[0].objects[0].path]
    assert [one.key for one in rows if Codes(lake.url, "ticodec").row(one.key) is None] == [gone]
    with pytest.raises(BadCodes, match="the lake has no such sound"):
        put_codes(lake, "ticodec", "voices", rows)
    put_codes(lake, "ticodec", "voices", [one for one in rows if one.key != gone])
    (again,) = plan(lake, page, replace=True)
    assert audit(lake, [again], recipe=page, deep=True).findings == ()
    prune(lake, hours=0)
    held = [get_table(lake.store, shard.objects[0]) for shard in lake.snapshot().codes[0].shards]
    assert {entry.path for entry in lake.store.list("codec")} == {
        shard.objects[0].path for shard in lake.snapshot().codes[0].shards
    }
    assert gone not in [key for table in held for key in table["key"].to_pylist()]


def test_codes_that_are_written_while_their_record_is_taken_down_are_left_out(lake, monkeypatch):
    rows, publish = coded(lake), type(lake).publish

    def late(self, change):
        monkeypatch.setattr(type(lake), "publish", publish)
        take(lake, ("voices", "L1"))
        return publish(self, change)

    monkeypatch.setattr(type(lake), "publish", late)
    put_codes(lake, "ticodec", "voices", rows)
    (shard,) = lake.snapshot().codes[0].shards
    assert get_table(lake.store, shard.objects[0])["key"].to_pylist() == sorted(
        one.key for one in rows if one.key != key_of("voices", "L1")
    )


def test_many_codes_lie_in_leaves_and_only_those_that_change_are_written(lake, monkeypatch):
    """The same objects as if all had come at once, whatever came first."""
    monkeypatch.setattr("tarsia.builders.codes.CAP", 1)
    rows = coded(lake)
    put_codes(lake, "ticodec", "voices", rows[:1])
    state = put_codes(lake, "ticodec", "voices", rows[1:])
    assert [shard.samples for shard in state.shards] == [1, 1, 1]
    once = put_codes(lake, "other", "voices", rows)
    digests = [[shard.objects[0].digest for shard in one.shards] for one in (state, once)]
    assert digests[0] == digests[1]
