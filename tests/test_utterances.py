"""The forms of the speech stages: features and words, waves, and words with waves or codes."""

import io
from dataclasses import replace

import numpy as np
import pytest
import soundfile
from lakes import fill, plan, recipe, recordings, say, spell

from tarsia.builders.fbank import frame_count
from tarsia.builders.speech import said
from tarsia.builders.tokens import tokenizer
from tarsia.manifests.collate import Decoder
from tarsia.manifests.stream import Stream
from tarsia.manifests.utterances import Pairs, Transcripts, Waves
from tarsia.schemas.errors import Corrupt, UserError

QWEN = tokenizer("qwen2.5")
SECONDS = [0.9, 1.7, 1.2]


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    """Three recordings to be recognised, three to be synthesised."""
    folder = tmp_path_factory.mktemp("utterances")
    recordings(folder, SECONDS)
    (folder / "LJ/wavs").mkdir(parents=True)
    for number, seconds in enumerate(SECONDS):
        wave = (9000 * np.sin(np.arange(round(seconds * 22_050)) / (8 + number))).astype(np.int16)
        soundfile.write(folder / f"LJ/wavs/L{number}.wav", wave, 22_050)
    lines = [f"L{number}|raw|The *Sea*, No. {number}: was it “calm”? <image>\n" for number in range(len(SECONDS))]
    (folder / "LJ/metadata.csv").write_text("".join(lines))
    corpora = {
        "speech": ({"format": "librispeech", "kind": "asr", "root": "LibriSpeech"}, None),
        "voices": ({"format": "ljspeech", "kind": "tts", "root": "LJ"}, None),
    }
    stages = {"asr": {"take": {"asr": "100%"}, "pack": False}, "tts": {"take": {"tts": "100%"}, "pack": False}}
    filled = fill(folder, corpora)
    plan(filled, recipe(stages))
    return filled


def batches(lake, stage, form, batch=3):
    stream = Stream(lake.url, f"small/{stage}", batch=batch)
    return list(Decoder(stream.manifest.context, form)(stream))


def test_transcripts_are_features_and_what_was_said_as_the_corpus_spells_it(lake):
    (batch,) = batches(lake, "asr", Transcripts())
    assert {name: (array.shape, array.dtype.name) for name, array in batch.arrays.items()} == {
        "features": ((3, frame_count(27_200), 80), "float32"),
        "features_lens": ((3,), "int64"),
        "words": ((3, batch["words_lens"].max()), "int64"),
        "words_lens": ((3,), "int64"),
    }
    texts = [spell(row[:size]) for row, size in zip(batch["words"], batch["words_lens"], strict=True)]
    assert sorted(texts) == sorted(say(number, 6).upper() for number in range(3))
    lengths = {say(number, 6).upper(): frame_count(round(seconds * 16_000)) for number, seconds in enumerate(SECONDS)}
    assert [lengths[text] for text in texts] == batch["features_lens"].tolist()
    for row, words, size, frames in zip(
        batch["features"], batch["words"], batch["words_lens"], batch["features_lens"], strict=True
    ):
        assert (row[frames:] == 0).all()
        assert (words[size:] == -1).all()


def test_waves_are_the_stored_speech_at_24_khz(lake):
    (batch,) = batches(lake, "tts", Waves())
    assert sorted(batch["waves_lens"].tolist()) == sorted(round(seconds * 24_000) for seconds in SECONDS)
    context = Stream(lake.url, "small/tts").context(batch.contexts[0])
    stored, rate = soundfile.read(io.BytesIO(context.samples[0].media["0.flac"]), dtype="float32")
    assert rate == 24_000
    assert np.array_equal(batch["waves"][0][: len(stored)], stored)
    assert (batch["waves"][0][len(stored) :] == 0).all()
    assert batch["waves"].dtype == np.float32


def test_pairs_are_words_as_they_are_said_with_their_waves(lake):
    (batch,) = batches(lake, "tts", Pairs())
    assert set(batch.arrays) == {"x", "x_lens", "waves", "waves_lens"}
    texts = [spell(row[:size]) for row, size in zip(batch["x"], batch["x_lens"], strict=True)]
    assert sorted(texts) == [f"the sea , no. {number}: was it “calm”? image" for number in range(3)]
    assert all(
        (row[size:] == QWEN.controls["<|endoftext|>"]).all()
        for row, size in zip(batch["x"], batch["x_lens"], strict=True)
    )


def test_pairs_have_codes_where_the_codec_has_left_them(lake):
    asked = []

    def codes(key, number):
        asked.append((key, number))
        return np.arange(len(asked)) + 1000

    (batch,) = batches(lake, "tts", Pairs(codes))
    assert batch["y"].tolist() == [[1000, -1, -1], [1000, 1001, -1], [1000, 1001, 1002]]
    assert batch["y_lens"].tolist() == [1, 2, 3]
    assert asked == [(key, 0) for (key,) in batch.keys]


@pytest.mark.parametrize("codes", [[], [1024], [-1], [[1, 2]]])
def test_what_is_no_code_is_refused(lake, codes):
    with pytest.raises(UserError, match="audio 0: codes are a row of ids from 0 to 1023"):
        batches(lake, "tts", Pairs(lambda key, number: codes))


@pytest.mark.parametrize(
    ("text", "spoken"),
    [
        ("Hello, World!", "hello, world!"),
        ("☞It is *very* `odd`.", "it is very odd ."),
        ("价格是 ￥5，对吗？", "价格是 5，对吗？"),
        ("a_b\n\nc", "a b c"),
        ("5% & 3°", "5% & 3°"),
    ],
)
def test_text_is_normalised_to_what_is_pronounced(text, spoken):
    assert said(text) == spoken


def test_a_recording_that_cannot_be_decoded_is_corrupt(lake):
    stream = Stream(lake.url, "small/tts")
    context = stream.context(0)
    part = context.samples[0]
    broken = replace(context, samples=(part._replace(media={"0.flac": part.media["0.flac"][:300]}),))
    with pytest.raises(Corrupt, match=rf"sample {part.sample.key}: 0\.flac cannot be decoded"):
        Waves().arrays(broken, stream.manifest.context)


def test_a_slice_may_be_empty():
    settings = recipe({"one": {"take": {"tts": "1%"}}}).context
    for form in (Transcripts(), Waves(), Pairs(), Pairs(lambda key, number: [1])):
        assert all(len(array) == 0 for array in form.collate([], settings).values())
