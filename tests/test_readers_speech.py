"""Readers of speech: tables and indexes of recordings, and what is cut from them."""

import gzip
import io
import json
import tarfile

import numpy as np
import pytest
import soundfile
from test_readers import code, draft, read, said

from tarsia.builders.corpora import Fault, Raw, Span, find
from tarsia.builders.reading.lookup import Lookup
from tarsia.builders.reading.segments import Place, heard, place
from tarsia.builders.reading.templates import TEMPLATES
from tarsia.builders.storage import open_store
from tarsia.schemas.errors import Refused, StorageFault

FILE = {"type": "file", "channels": [0], "source": "a.wav"}
SOUND = {
    "aishell": {"id": "BAC009S0002W0122", "text": "而 对 楼市", "audio": "wav/train/S0002/BAC009S0002W0122.wav"},
    "asterisk": {"id": "letters/dot", "text": "dot [.]", "audio": "en_US_f_Allison/letters/dot.wav"},
    "audio_list": {"audio_filepath": "a.wav", "text": "hello", "offset": 1.5, "duration": 2.0},
    "common_voice": {"client_id": "someone", "path": "a.mp3", "sentence": "Hello.", "locale": "en"},
    "gigaspeech": {
        "sid": "A_1",
        "speaker": "N/A",
        "begin_time": 1,
        "end_time": 2.5,
        "text_tn": "HI",
        "audio": "a.opus",
    },
    "kaldi": {"id": "a-1", "text": "HELLO", "speaker": "a", "recording": "r", "times": ["0.5", "2"], "audio": "r.wav"},
    "lhotse": {
        "id": "a",
        "text": "hello",
        "start": 1.0,
        "duration": 2.0,
        "recording": {"sources": [FILE], "duration": 9},
    },
    "named_audio": {"name": "cmn-一_也_", "audio": "hsk/cmn-一_也_.mp3"},
    "wavcaps": {"id": "Y1.wav", "caption": "A dog barks.", "duration": 10.0, "sound": "Y1.flac"},
    "wenet_shard": {"key": "a/b", "txt": "你好", "members": {"wav": 44}},
    "wenetspeech": {
        "sid": "Y_1",
        "confidence": 1.0,
        "begin_time": 0,
        "end_time": 1.5,
        "text": "你好",
        "audio": "a.opus",
    },
}


# --- sounds ---------------------------------------------------------------------------------------------------------


def notes(*pitches, rate=16_000, seconds=1.0):
    """One tone after the other, each of `seconds`."""
    time = np.arange(int(seconds * rate)) / rate
    return np.concatenate([0.4 * np.sin(2 * np.pi * pitch * time) for pitch in pitches]).astype(np.float32)


def record(path, wave, rate=16_000, **form):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wave, rate, **form)


def opus(path, *pitches):
    record(path, notes(*pitches), format="OGG", subtype="OPUS")


def pitch(flac):
    """The tone of a stored sound in steps of 20 Hz, and its seconds."""
    wave, rate = soundfile.read(io.BytesIO(flac))
    spectrum = np.abs(np.fft.rfft(wave * np.hanning(len(wave))))
    return round(spectrum.argmax() * rate / len(wave) / 20) * 20, round(len(wave) / rate, 2)


def pitches(found):
    return {raw.id: pitch(raw.media["audio"]) for raw in found if raw.media}


def reasons(found, format_, **more):
    """What became of raw records: their drafts' audio, or the code of the refusal."""
    out = {}
    for raw in found:
        try:
            out[raw.id] = draft(format_, raw.record, **more).audios[0]
        except Refused as refused:
            out[raw.id] = refused.code
    return out


# --- segments -------------------------------------------------------------------------------------------------------


def cut(folder, name, *times):
    pieces = [(Raw(str(number), {}, 0, 0), Place(name, *time)) for number, time in enumerate(times)]
    return {raw.id: raw for raw in heard(open_store(str(folder)), name, pieces)}


def amiss(found):
    return {own: raw.record["amiss"]["code"] for own, raw in found.items() if "amiss" in raw.record}


@pytest.mark.parametrize("name", ["a.opus", "a.ogg", "a.wav", "a.flac", "a.m4a"])
def test_segments_are_cut_where_the_table_says_whatever_the_codec(tmp_path, name):
    wave = notes(400, 600, 800, 1000, 1200, 1400)
    if name.endswith("m4a"):
        aac(tmp_path / name, wave)
    else:
        form = {"format": "OGG", "subtype": "OPUS"} if name == "a.opus" else {}
        record(tmp_path / name, wave, **form)
    found = cut(tmp_path, name, (4.1, 4.9), (1.1, 1.9), (1.05, 1.95), (0.1, 0.9))
    assert {own: pitch(raw.media["audio"]) for own, raw in found.items()} == {
        "3": (400, 0.8),
        "2": (600, 0.9),
        "1": (600, 0.8),
        "0": (1200, 0.8),
    }


def aac(path, wave):
    import av

    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=16_000)
        stream.layout = "mono"
        for begin in range(0, len(wave), 1024):
            frame = av.AudioFrame.from_ndarray(wave[None, begin : begin + 1024], format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16_000, begin
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def test_a_lossless_segment_keeps_every_sample_and_the_rate(tmp_path):
    samples = np.random.default_rng(0).integers(-30_000, 30_000, 44_100 * 12, dtype=np.int16)
    record(tmp_path / "a.wav", samples, 44_100)
    (found,) = cut(tmp_path, "a.wav", (7.5, 11.25)).values()
    wave, rate = soundfile.read(io.BytesIO(found.media["audio"]), dtype="int16")
    assert rate == 44_100
    assert np.array_equal(wave, samples[330_750:496_125])


def test_a_segment_is_cut_from_its_own_channel(tmp_path):
    record(tmp_path / "a.wav", np.stack([notes(400, 600), notes(800, 1000)], axis=1))
    found = cut(tmp_path, "a.wav", (0, 1, 0), (0, 1, 1), (1, 2, 1), (1, 2, 2))
    assert {own: pitch(raw.media["audio"])[0] for own, raw in found.items() if raw.media} == {
        "0": 400,
        "1": 800,
        "2": 1000,
    }
    assert amiss(found) == {"3": "audio-channel"}


def test_what_lies_behind_the_end_is_said_in_the_record(tmp_path):
    record(tmp_path / "a.wav", notes(400, 600))
    found = cut(tmp_path, "a.wav", (1, 2.05), (1, 3), (5, 6))
    assert pitch(found["0"].media["audio"]) == (600, 1.0)
    assert amiss(found) == {"1": "audio-cut", "2": "audio-cut"}
    assert found["1"].record["amiss"]["message"] == "a.wav: ends at 2.00 s, inside or before the segment"


def test_a_recording_that_cannot_be_opened_refuses_its_segments(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"no sound at all")
    assert amiss(cut(tmp_path, "a.wav", (0, 1))) == {"0": "audio-unreadable"}
    assert amiss(cut(tmp_path, "b.wav", (0, 1), (1, 2))) == {"0": "media-missing", "1": "media-missing"}
    assert amiss(cut(tmp_path, "../b.wav", (0, 1))) == {"0": "media-outside"}


def test_a_recording_that_breaks_off_keeps_the_segments_before(tmp_path):
    opus(tmp_path / "a.opus", *range(400, 2400, 200))
    whole = (tmp_path / "a.opus").read_bytes()
    (tmp_path / "a.opus").write_bytes(whole[: len(whole) // 2])
    found = cut(tmp_path, "a.opus", *((second, second + 1) for second in range(10)))
    assert {own for own, raw in found.items() if raw.media} >= {"0", "1", "2", "3"}
    assert amiss(found).items() >= {"7": "audio-cut", "8": "audio-cut", "9": "audio-cut"}.items()


def test_a_store_that_fails_is_not_taken_for_the_end_of_a_recording(tmp_path):
    class Failing(io.BytesIO):
        def read(self, size=-1):
            if self.tell() > 100_000:
                raise StorageFault("the bucket is gone")
            return super().read(size)

    class Source:
        def open(self, path):
            return Failing((tmp_path / path).read_bytes())

    record(tmp_path / "a.wav", notes(*[500] * 20))
    with pytest.raises(StorageFault):
        list(heard(Source(), "a.wav", [(Raw("1", {}, 0, 0), Place("a.wav", 15, 16))]))


@pytest.mark.parametrize("name", ["a.opus", "a.ogg", "a.wav", "a.flac", "a.m4a"])
def test_whatever_happened_to_a_recording_its_segments_are_cut_or_refused(tmp_path, name):
    wave = notes(400, 600, 800)
    if name == "a.m4a":
        aac(tmp_path / name, wave)
    else:
        record(tmp_path / name, wave, **({"format": "OGG", "subtype": "OPUS"} if name == "a.opus" else {}))
    whole = (tmp_path / name).read_bytes()
    chance = np.random.default_rng(7)
    for _ in range(40):
        data = bytearray(whole)
        for place_ in chance.integers(0, len(data), 6):
            data[place_ : place_ + 8] = chance.bytes(8)
        (tmp_path / name).write_bytes(data[: chance.integers(1, len(data))] if chance.random() < 0.3 else data)
        found = cut(tmp_path, name, (0, 1), (1, 2), (2, 3))
        assert sorted(found) == ["0", "1", "2"]
        assert all(raw.media or "amiss" in raw.record for raw in found.values())


@pytest.mark.parametrize(
    ("begin", "end", "channel", "expected"),
    [
        (1, 1, 0, "segment-times"),
        (2, 1.5, 0, "segment-times"),
        (-1, 1, 0, "segment-times"),
        (0, float("nan"), 0, "segment-times"),
        (0, 30.01, 0, "audio-long"),
        ("0", 1, 0, "record-shape"),
        (None, 1, 0, "record-shape"),
        (0, True, 0, "record-shape"),
        (0, 1, "A", "record-shape"),
    ],
)
def test_a_place_that_holds_no_speech_is_refused(begin, end, channel, expected):
    with pytest.raises(Refused) as refused:
        place("a.wav", begin, end, channel)
    assert refused.value.code == expected


def test_half_a_minute_is_not_too_long_whatever_floats_make_of_it():
    assert place("a.wav", 10.01, 40.01) == ("a.wav", 10.01, 40.01, 0)


# --- gigaspeech and wenetspeech -------------------------------------------------------------------------------------


def index(*audios):
    """An index of recordings with segments: (sid, begin, end, what else it says)."""
    listed = [
        {
            "aid": path,
            "path": path,
            "segments": [{"sid": s, "begin_time": b, "end_time": e, **m} for s, b, e, m in parts],
        }
        for path, parts in audios
    ]
    return {"dataset": "some", "version": "v1.0.0", "audios": listed}


def test_segments_of_an_index_come_with_their_sound(tmp_path):
    opus(tmp_path / "audio/a.opus", 400, 600, 800)
    opus(tmp_path / "audio/b.opus", 1000, 1200)
    first = ("audio/a.opus", [("a0", 0.1, 0.9, {"text": "一"}), ("a2", 2.1, 2.9, {"text": "二"})])
    second = ("audio/b.opus", [("b1", 1.1, 1.9, {"text": "三", "confidence": 0.95, "subsets": ["L"]})])
    found = read(tmp_path, "wenetspeech", {"WenetSpeech.json": index(first, second)})
    assert pitches(found) == {"a0": (400, 0.8), "a2": (800, 0.8), "b1": (1200, 0.8)}
    assert found[2].record == {
        "sid": "b1",
        "begin_time": 1.1,
        "end_time": 1.9,
        "text": "三",
        "confidence": 0.95,
        "subsets": ["L"],
        "audio": "audio/b.opus",
    }
    data = (tmp_path / "WenetSpeech.json").read_bytes()
    assert [json.loads(data[raw.begin : raw.end])["sid"] for raw in found] == ["a0", "a2", "b1"]
    assert said(draft("wenetspeech", found[2].record, kind="asr")) == [("human", "<audio>"), ("gpt", "三")]
    assert draft("wenetspeech", found[2].record).audios == ("@audio",)


def test_tags_become_punctuation_and_garbage_is_refused_unheard(tmp_path):
    opus(tmp_path / "a.opus", 400, 600, 800)
    texts = [
        {"text_tn": "SO <COMMA> WHO IS IT <QUESTIONMARK>"},
        {"text_tn": "<NOISE>"},
        {"text_tn": "OH <EXCLAMATIONPOINT>"},
    ]
    parts = [(str(number), number + 0.1, number + 0.9, text) for number, text in enumerate(texts)]
    found = read(tmp_path, "gigaspeech", {"GigaSpeech.json": index(("a.opus", parts))})
    by_id = {raw.id: raw for raw in found}
    assert pitches(found) == {"0": (400, 0.8), "2": (800, 0.8)}
    assert reasons(found, "gigaspeech") == {"0": "@audio", "1": "transcript-garbage", "2": "@audio"}
    assert said(draft("gigaspeech", by_id["0"].record, kind="asr"))[1] == ("gpt", "SO, WHO IS IT?")
    assert said(draft("gigaspeech", by_id["2"].record, kind="tts")) == [("human", "OH!"), ("gpt", "<audio>")]


def test_a_speaker_that_is_not_known_is_none():
    assert draft("gigaspeech", SOUND["gigaspeech"]).speaker is None
    assert draft("gigaspeech", {**SOUND["gigaspeech"], "speaker": "S1"}).speaker == "S1"


def test_every_segment_of_an_index_is_counted(tmp_path):
    opus(tmp_path / "a.opus", 400, 600)
    parts = [("0", 0, 1, {"text": "一"}), ("1", 1, 40, {"text": "二"}), ("2", 9, 10, {"text": "三"}), ("3", 0, 1, {})]
    missing = ("b.opus", [("4", 0, 1, {"text": "四"})])
    found = read(tmp_path, "wenetspeech", {"WenetSpeech.json": index(("a.opus", parts), missing)})
    assert reasons(found, "wenetspeech") == {
        "0": "@audio",
        "1": "audio-long",
        "2": "audio-cut",
        "3": "record-shape",
        "4": "media-missing",
    }


def test_recordings_lie_beside_the_index_or_at_the_root(tmp_path):
    opus(tmp_path / "data/audio/a.opus", 400)
    content = index(("audio/a.opus", [("0", 0.1, 0.9, {"text": "一"})]))
    (raw,) = read(tmp_path, "wenetspeech", {"data/WenetSpeech.json": content})
    assert (raw.record["audio"], pitch(raw.media["audio"])) == ("data/audio/a.opus", (400, 0.8))


def test_an_audio_without_segments_is_a_fault_and_one_with_none_is_nothing(tmp_path):
    audios = [{"path": "a.opus", "segments": []}, {"aid": "b"}, 3]
    found = read(tmp_path, "gigaspeech", {"GigaSpeech.json": {"audios": audios}})
    assert [(fault.code, fault.raw) for fault in found] == [("record-shape", b'{"aid": "b"}'), ("record-shape", b"3")]


def test_an_index_that_breaks_off_keeps_the_audios_before(tmp_path):
    opus(tmp_path / "a.opus", 400)
    content = json.dumps(index(*[("a.opus", [(str(number), 0, 1, {"text": "一"})]) for number in range(3)]))
    found = read(tmp_path, "wenetspeech", {"WenetSpeech.json": content[:-40]})
    assert [raw.id if isinstance(raw, Raw) else raw.code for raw in found] == ["0", "1", "json-truncated"]


# --- kaldi ----------------------------------------------------------------------------------------------------------


def test_an_utterance_of_kaldi_is_a_file(tmp_path):
    tables = {
        "data/train/text": "a-1 HELLO THERE\na-2\nb-1 GOOD BYE\n",
        "data/train/wav.scp": "a-1 wav/a 1.wav\na-2 wav/a2.wav\n",
        "data/train/utt2spk": "a-1 a\na-2 a\n",
    }
    found = read(tmp_path, "kaldi", tables)
    assert [raw.record for raw in found] == [
        {"id": "a-1", "text": "HELLO THERE", "speaker": "a", "audio": "wav/a 1.wav"},
        {"id": "a-2", "text": "", "speaker": "a", "audio": "wav/a2.wav"},
        {"id": "b-1", "text": "GOOD BYE", "audio": ""},
    ]
    assert [(raw.begin, raw.end) for raw in found] == [(0, 15), (16, 19), (20, 32)]
    assert reasons(found, "kaldi") == {"a-1": "wav/a 1.wav", "a-2": "answer-empty", "b-1": "media-missing"}
    assert draft("kaldi", found[0].record).speaker == "a"


@pytest.mark.parametrize(
    ("recording", "expected"),
    [
        ("sph2pipe -f wav -p -c 1 a.sph |", "audio-pipe"),
        ("touch pwned; cat a.wav |", "audio-pipe"),
        ("-", "audio-pipe"),
        ("data/raw_wav.ark:1234", "audio-archive"),
    ],
)
@pytest.mark.parametrize("segments", ["", "a-1 a-1 0 1\n"])
def test_commands_are_refused_and_never_run(tmp_path, recording, expected, segments):
    record(tmp_path / "a.wav", notes(400))
    (raw,) = read(tmp_path, "kaldi", {"text": "a-1 HELLO\n", "wav.scp": f"a-1 {recording}\n", "segments": segments})
    assert reasons([raw], "kaldi") == {"a-1": expected}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.wav", "segments", "text", "wav.scp"]


def test_segments_of_kaldi_are_cut_however_they_are_sorted(tmp_path):
    record(tmp_path / "wav/x.wav", notes(400, 600, 800))
    record(tmp_path / "wav/y.flac", np.stack([notes(1000, 1200), notes(1400, 1600)], axis=1))
    tables = {
        "text": "a-x1 ONE\na-y1 TWO\nb-x0 THREE\nb-y0 FOUR\nc-z SIX\nd-no SEVEN\n",
        "wav.scp": "x wav/x.wav\ny wav/y.flac\n",
        "utt2spk": "a-x1 a\na-y1 a\nb-x0 b\nb-y0 b\n",
        "segments": "a-x1 x 1.1 1.9\na-y1 y 1.1 1.9\nb-x0 x 0.1 0.9\nb-y0 y 0.1 0.9 1\nc-z z 0 1\n",
    }
    found = read(tmp_path, "kaldi", tables)
    assert [raw.id for raw in found] == ["c-z", "d-no", "b-x0", "a-x1", "b-y0", "a-y1"]
    assert pitches(found) == {"b-x0": (400, 0.8), "a-x1": (600, 0.8), "b-y0": (1400, 0.8), "a-y1": (1200, 0.8)}
    assert reasons(found[:2], "kaldi") == {"c-z": "media-missing", "d-no": "media-missing"}
    assert found[3].record == {
        "id": "a-x1",
        "text": "ONE",
        "speaker": "a",
        "recording": "x",
        "times": ["1.1", "1.9"],
        "audio": "wav/x.wav",
    }
    assert (found[3].begin, found[3].end) == (0, 8)


def test_chinese_tables_may_be_in_an_old_encoding(tmp_path):
    record(tmp_path / "x.wav", notes(400, 600))
    (tmp_path / "text").write_bytes("a 你好，请问这里是哪里\nb 再见，明天见\n".encode("gb18030"))
    found = read(tmp_path, "kaldi", {"wav.scp": "x x.wav\n", "segments": "a x 0.1 0.9\nb x 1.1 1.9\n"})
    assert [(raw.record["text"], pitch(raw.media["audio"])[0]) for raw in found] == [
        ("你好，请问这里是哪里", 400),
        ("再见，明天见", 600),
    ]


def test_times_that_are_none_refuse_one_utterance(tmp_path):
    record(tmp_path / "x.wav", notes(400))
    tables = {"text": "a A\nb B\nc C\n", "wav.scp": "x x.wav\n", "segments": "a x 0 one\nb x 0\nc x 0 1\n"}
    found = read(tmp_path, "kaldi", tables)
    assert reasons(found, "kaldi") == {"a": "record-shape", "b": "record-shape", "c": "@audio"}


def test_texts_without_recordings_are_one_fault(tmp_path):
    (fault,) = read(tmp_path, "kaldi", {"data/text": "a A\nb B\n"})
    assert (fault.code, fault.message) == ("record-shape", "no recordings: wav.scp beside it is missing or empty")


def test_lines_are_found_by_their_first_word(tmp_path):
    (tmp_path / "table").write_text("b two words\n\na one\nb again\nc\n")
    with Lookup(open_store(str(tmp_path)), "table") as lines, Lookup(open_store(str(tmp_path)), "none") as none:
        assert [lines.rest(key) for key in "abcd"] == ["one", "two words", "", None]
        assert (len(lines), len(none), none.rest("a")) == (4, 0, None)


# --- aishell, common voice ------------------------------------------------------------------------------------------


def test_utterances_of_aishell_are_found_in_their_folders(tmp_path):
    record(tmp_path / "data_aishell/wav/train/S0002/BAC009S0002W0122.wav", notes(400))
    transcript = "BAC009S0002W0122 而 对 楼市 成交\nBAC009S0003W0001 用 GPT four 吗\n"
    found = read(tmp_path, "aishell", {"data_aishell/transcript/aishell_transcript_v0.8.txt": transcript})
    first, second = (draft("aishell", raw.record, kind="asr", language="zh") for raw in found)
    assert (said(first)[1], first.speaker) == (("gpt", "而对楼市成交"), "S0002")
    assert first.audios == ("data_aishell/wav/train/S0002/BAC009S0002W0122.wav",)
    assert (said(second)[1], second.speaker) == (("gpt", "用GPT four吗"), "S0003")
    assert second.audios == ("data_aishell/wav/BAC009S0003W0001.wav",)


EIGHT = "client_id\tpath\tsentence\tup_votes\tdown_votes\tage\tgender\taccent\n"
THIRTEEN = (
    "client_id\tpath\tsentence_id\tsentence\tsentence_domain\tup_votes\tdown_votes\tage\tgender\taccents\tvariant\t"
    "locale\tsegment\n"
)


def test_common_voice_is_read_by_the_names_of_its_columns(tmp_path):
    tables = {
        "old/en/validated.tsv": EIGHT + "one\taaa\tHello there.\t2\t0\t\t\t\n",
        "new/en/validated.tsv": THIRTEEN + "two\tb.mp3\tff\tGood bye.\t\t2\t0\t\t\t\t\ten\t\n",
        "new/en/train.tsv": THIRTEEN + "two\tb.mp3\tff\tGood bye.\t\t2\t0\t\t\t\t\ten\t\n",
        "none/en/validated.tsv": THIRTEEN,
    }
    new, old = read(tmp_path, "common_voice", tables)
    assert (old.id, new.id) == ("aaa", "b.mp3")
    assert (old.record["sentence"], new.record["sentence"]) == ("Hello there.", "Good bye.")
    drafted = draft("common_voice", old.record, kind="asr", file="old/en/validated.tsv")
    assert (drafted.audios, drafted.speaker) == (("old/en/clips/aaa.mp3",), "one")
    drafted = draft("common_voice", new.record, kind="asr", file="new/en/validated.tsv")
    assert (drafted.audios, said(drafted)[1]) == (("new/en/clips/b.mp3",), ("gpt", "Good bye."))


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ('"""Hello,"" he said."', '"Hello," he said.'),
        ('"Hello."', "Hello."),
        ('"Hello," he said. "Bye."', '"Hello," he said. "Bye."'),
        ('He said "hello', 'He said "hello'),
    ],
)
def test_sentences_that_were_quoted_are_unquoted(tmp_path, written, meant):
    (raw,) = read(tmp_path, "common_voice", {"validated.tsv": f"{EIGHT}one\ta.mp3\t{written}\t2\t0\t\t\t\n"})
    assert said(draft("common_voice", raw.record, kind="asr"))[1] == ("gpt", meant)


def test_a_row_of_another_length_is_a_fault(tmp_path):
    found = read(tmp_path, "common_voice", {"validated.tsv": f"{EIGHT}one\ta.mp3\none\tb.mp3\tHi.\t2\t0\t\t\t\n"})
    assert [(found[0].code, found[0].message), found[1].id] == [("record-shape", "2 columns; 8 were due"), "b.mp3"]


# --- lists of files -------------------------------------------------------------------------------------------------


def test_lists_are_understood_however_they_are_written(tmp_path):
    for name in ("one.wav", "two.wav", "deep/three.wav", "deep/four.wav"):
        record(tmp_path / name, notes(400))
    lists = {
        "a.tsv": "one.wav\thello\ntwo.wav\tgood bye\n",
        "b.csv": 'id,path,sentence,speaker\n7,two.wav,"one, two\nthree",anna\n',
        "deep/c.jsonl": jsonl(
            {"audio_filepath": "three.wav", "text": "three"}, {"wav": "four.wav", "txt": "four", "key": "k"}
        ),
    }
    found = read(tmp_path, "audio_list", lists)
    drafts = [draft("audio_list", raw.record, kind="asr") for raw in found]
    assert [
        (raw.id, made.audios[0], said(made)[1][1], made.speaker) for raw, made in zip(found, drafts, strict=True)
    ] == [
        ("one.wav", "one.wav", "hello", None),
        ("two.wav", "two.wav", "good bye", None),
        ("7", "two.wav", "one, two\nthree", "anna"),
        ("three.wav", "deep/three.wav", "three", None),
        ("k", "deep/four.wav", "four", None),
    ]
    data = (tmp_path / "b.csv").read_bytes()
    assert data[found[2].begin : found[2].end] == b'7,two.wav,"one, two\nthree",anna'


def test_parts_of_recordings_in_a_list_are_cut(tmp_path):
    record(tmp_path / "x.wav", notes(400, 600, 800))
    manifest = [
        {"id": "nemo", "audio_filepath": "x.wav", "offset": 1.1, "duration": 0.8, "text": "a"},
        {"id": "wenet", "wav": "x.wav", "start": 2.1, "end": 2.9, "txt": "b"},
        {"id": "whole", "wav": "x.wav", "duration": 3.0, "txt": "c"},
        {"id": "pipe", "wav": "cat x.wav |", "txt": "d"},
    ]
    found = read(tmp_path, "audio_list", {"x.jsonl": "\n".join(map(json.dumps, manifest))})
    assert pitches(found) == {"nemo": (600, 0.8), "wenet": (800, 0.8)}
    assert reasons(found, "audio_list") == {"whole": "x.wav", "pipe": "audio-pipe", "nemo": "@audio", "wenet": "@audio"}


def test_a_table_of_something_else_is_one_fault(tmp_path):
    (fault,) = read(tmp_path, "audio_list", {"a.csv": "clip duration,ms\nx,3\ny,4\n"})
    assert (fault.code, fault.begin, fault.end) == ("record-shape", 0, 25)
    assert fault.message == "neither a path and a text nor columns that are named so: clip duration, ms"


def test_a_list_does_not_lead_out_of_the_corpus(tmp_path):
    (tmp_path / "inside").mkdir()
    record(tmp_path / "secret.wav", notes(400))
    lines = [
        {"wav": path, "txt": "a", "start": 0, "end": 1} for path in ("../secret.wav", str(tmp_path / "secret.wav"))
    ]
    found = read(tmp_path / "inside", "audio_list", {"lists/a.jsonl": "\n".join(map(json.dumps, lines))})
    assert [raw.record.get("amiss", {}).get("code") for raw in found] == ["media-outside", "media-outside"]


def test_the_name_of_a_file_is_what_is_said(tmp_path):
    for name in ("cmn-一个.mp3", "cmn-一_也_.mp3", "再见.wav"):
        (tmp_path / name).write_bytes(b"123")
    found = read(tmp_path, "named_audio")
    assert {
        raw.id: (said(draft("named_audio", raw.record, kind="asr"))[1][1], raw.begin, raw.end) for raw in found
    } == {
        "cmn-一个": ("一个", 0, 3),
        "cmn-一_也_": ("一…也…", 0, 3),
        "再见": ("再见", 0, 3),
    }
    assert {draft("named_audio", raw.record).audios[0] for raw in found} == {
        "cmn-一个.mp3",
        "cmn-一_也_.mp3",
        "再见.wav",
    }


def test_prompts_say_what_is_spoken_and_nothing_else(tmp_path):
    for name in ("activated", "letters/dot", "beep"):
        record(tmp_path / f"en_US_f_Allison/{name}.wav", notes(400))
    prompts = [
        "; Core Sounds: English",
        "",
        "activated: Activated.",
        "letters/dot: dot [.]",
        "beep: [a beep]",
        "join: <beep ascending>",
        "silence/1: (1 second of silence)",
        "goodbye: Good bye: see you.",
        "broken",
    ]
    found = read(tmp_path, "asterisk", {"core-sounds-en.txt": "\n".join(prompts)})
    assert found[-1].code == "record-shape"
    assert reasons(found[:-1], "asterisk") == {
        "activated": "en_US_f_Allison/activated.wav",
        "letters/dot": "en_US_f_Allison/letters/dot.wav",
        "beep": "transcript-garbage",
        "join": "transcript-garbage",
        "silence/1": "transcript-garbage",
        "goodbye": "goodbye.wav",
    }
    drafts = {raw.id: draft("asterisk", raw.record, kind="asr") for raw in (found[0], found[1], found[5])}
    assert {own: said(made)[1][1] for own, made in drafts.items()} == {
        "activated": "Activated.",
        "letters/dot": "dot",
        "goodbye": "Good bye: see you.",
    }
    assert [made.speaker for made in drafts.values()] == ["en_US_f_Allison", "en_US_f_Allison", None]


# --- wavcaps --------------------------------------------------------------------------------------------------------


def test_sounds_of_wavcaps_are_found_by_path_or_by_id(tmp_path):
    for name in ("AudioSet_flac/Y1.flac", "BBC_flac/7.flac", "FreeSound_flac/7.flac", "odd/x.wav"):
        record(tmp_path / name, notes(400))
    data = [
        {"id": "Y1.wav", "caption": "A dog.", "audio": "wav_path", "duration": 10.0},
        {"id": "7", "caption": "Rain.", "duration": 3.0},
        {"id": "8", "caption": "Wind.", "audio": "odd/x.wav"},
        {"id": "9", "caption": "Waves.", "duration": 44_607.2},
    ]
    found = read(tmp_path, "wavcaps", {"FreeSound/fsd_final.json": {"num_captions_per_audio": 1, "data": data}})
    assert reasons(found, "wavcaps") == {
        "Y1.wav": "AudioSet_flac/Y1.flac",
        "7": "FreeSound_flac/7.flac",
        "8": "odd/x.wav",
        "9": "audio-long",
    }
    found = read(tmp_path, "wavcaps", {"BBC/bbc_final.json": {"data": data[1:2]}})
    assert found[0].record["sound"] == "BBC_flac/7.flac"


def test_a_sound_is_asked_about_in_its_own_language():
    drafted = draft("wavcaps", SOUND["wavcaps"], kind="caption")
    (_, question), answer = said(drafted)
    assert question.removeprefix("<audio>\n") in TEMPLATES["sound", "en"]
    assert answer == ("gpt", "A dog barks.")
    chinese = {**SOUND["wavcaps"], "caption": "狗在叫。"}
    assert (
        said(draft("wavcaps", chinese, kind="caption", language="zh+en"))[0][1].removeprefix("<audio>\n")
        in TEMPLATES["sound", "zh"]
    )
    assert said(draft("wavcaps", SOUND["wavcaps"], kind="asr"))[0] == ("human", "<audio>")
    assert (
        len(TEMPLATES["sound", "en"])
        == len(TEMPLATES["sound", "zh"])
        == len({*TEMPLATES["sound", "en"], *TEMPLATES["sound", "zh"]}) // 2
    )


# --- lhotse ---------------------------------------------------------------------------------------------------------


def recording(own, source="x.wav", type_="file", channels=(0,), duration=3.0, **more):
    sources = [{"type": type_, "channels": list(channels), "source": source}]
    return {"id": own, "sources": sources, "sampling_rate": 16_000, "duration": duration, **more}


def supervision(own, recording_id, start, duration, **more):
    return {
        "id": own,
        "recording_id": recording_id,
        "start": start,
        "duration": duration,
        "channel": 0,
        "text": own,
        **more,
    }


def jsonl(*values):
    return "".join(json.dumps(value) + "\n" for value in values)


SUPERVISIONS = (
    supervision("b", "x", 1.1, 0.8, speaker="s1"),
    supervision("whole", "y", 0, 1.0),
    supervision("a", "x", 0.1, 0.8),
    supervision("right", "stereo", 1.1, 0.8, channel=1),
    supervision("command", "pipe", 0, 1),
    supervision("address", "url", 0, 1),
    supervision("faster", "speed", 0, 1),
    supervision("lost", "nowhere", 0, 1),
)
RECORDINGS = (
    recording("x"),
    recording("y", "y.wav", duration=1.0),
    recording("stereo", "s.wav", channels=(0, 1), duration=2.0, transforms=[{"name": "Resample", "kwargs": {}}]),
    recording("pipe", "cat x.wav", type_="command"),
    recording("url", "https://example.org/x.wav", type_="url"),
    recording("speed", transforms=[{"name": "Speed", "kwargs": {"factor": 1.1}}]),
)


def lhotse_sounds(folder):
    record(folder / "x.wav", notes(400, 600, 800))
    record(folder / "y.wav", notes(1000))
    record(folder / "s.wav", np.stack([notes(400, 600), notes(1400, 1600)], axis=1))


@pytest.mark.parametrize("zipped", [(), ("recordings",), ("supervisions",), ("recordings", "supervisions")])
def test_supervisions_find_their_recordings_zipped_or_not(tmp_path, zipped):
    lhotse_sounds(tmp_path)
    for name, content in (("recordings", jsonl(*RECORDINGS)), ("supervisions", jsonl(*SUPERVISIONS))):
        data, path = content.encode(), tmp_path / f"corpus_{name}_train.jsonl"
        path.write_bytes(data)
        if name in zipped:
            path.unlink()
            (tmp_path / f"{path.name}.gz").write_bytes(gzip.compress(data))
    found = read(tmp_path, "lhotse")
    assert reasons(found, "lhotse") == {
        "whole": "y.wav",
        "command": "audio-pipe",
        "address": "audio-source",
        "faster": "audio-source",
        "lost": "media-missing",
        "a": "@audio",
        "b": "@audio",
        "right": "@audio",
    }
    assert pitches(found) == {"a": (400, 0.8), "b": (600, 0.8), "right": (1600, 0.8)}
    first = jsonl(*SUPERVISIONS).encode()
    by_id = {raw.id: raw for raw in found}
    assert json.loads(first[by_id["b"].begin : by_id["b"].end]) == SUPERVISIONS[0]
    assert draft("lhotse", by_id["b"].record).speaker == "s1"


def test_cuts_bring_their_recordings(tmp_path):
    lhotse_sounds(tmp_path)
    cuts = [
        {"id": "c1", "start": 1.0, "duration": 2.0, "channel": 0, "type": "MonoCut", "recording": RECORDINGS[0]}
        | {"supervisions": [supervision("one", "x", 0.1, 0.8), supervision("two", "x", 1.1, 0.8)]},
        {"id": "c2", "start": 0, "duration": 1.0, "channel": 0, "type": "MonoCut", "recording": RECORDINGS[1]}
        | {"supervisions": []},
        {"id": "c3", "type": "MixedCut", "tracks": []},
    ]
    found = read(tmp_path, "lhotse", {"cuts_train.jsonl": jsonl(*cuts)})
    assert pitches(found) == {"one": (600, 0.8), "two": (800, 0.8)}
    assert reasons(found, "lhotse") == {"c2": "answer-empty", "c3": "media-missing", "one": "@audio", "two": "@audio"}


def test_manifests_may_name_files_beside_them(tmp_path):
    lhotse_sounds(tmp_path / "data")
    said_twice = [supervision("one", "x", 0.1, 0.8), supervision("two", "x", 1.1, 0.8)]
    cut_ = {"id": "c", "start": 0, "duration": 3.0, "recording": RECORDINGS[0], "supervisions": said_twice}
    found = read(tmp_path, "lhotse", {"data/cuts.jsonl": jsonl(cut_)})
    assert pitches(found) == {"one": (400, 0.8), "two": (600, 0.8)}


def test_a_zipped_manifest_that_breaks_off_keeps_what_came_before(tmp_path):
    lhotse_sounds(tmp_path)
    (tmp_path / "recordings.jsonl").write_text(jsonl(*RECORDINGS))
    packed = gzip.compress(
        jsonl(*SUPERVISIONS, *(supervision(f"{n * 7919 % 1000}", "y", 0, 1) for n in range(500))).encode()
    )
    (tmp_path / "supervisions.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    found = read(tmp_path, "lhotse")
    faults = [fault for fault in found if isinstance(fault, Fault)]
    assert [fault.code for fault in faults] in (["json-truncated", "gzip-broken"], ["gzip-broken"])
    assert faults[-1].end == len(packed) // 2
    assert 100 < len(found) < 500


# --- wenet shards ---------------------------------------------------------------------------------------------------


def tar(path, *members, mode="w"):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as file:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))


def test_pairs_of_a_shard_are_utterances_named_to_the_last_dot(tmp_path):
    tar(tmp_path / "shards/0.tar", ("a/b.1.txt", "你好".encode()), ("a/b.1.wav", b"RIFF1"), ("a/b.2.wav", b"RIFF22"))
    first, second = read(tmp_path, "wenet_shard")
    assert (first.id, first.record) == ("a/b.1", {"key": "a/b.1", "txt": "你好", "members": {"wav": 5}})
    assert first.media == {"wav": Span("shards/0.tar", 1536, 5)}
    assert open_store(str(tmp_path)).read_range(*first.media["wav"]) == b"RIFF1"
    assert draft("wenet_shard", first.record, kind="asr").audios == ("@wav",)
    assert (second.id, code("wenet_shard", second.record)) == ("a/b.2", "text-missing")
    assert code("wenet_shard", {"key": "a", "txt": "b", "members": {}}) == "media-missing"


def test_a_list_of_wenet_is_read_when_it_is_asked_for(tmp_path):
    record(tmp_path / "wav/a.wav", notes(400))
    lines = '{"key": "a", "wav": "wav/a.wav", "txt": "你好"}\n'
    tar(tmp_path / "0.tar", ("a.txt", b"x"), ("a.wav", b"RIFF"))
    assert [raw.id for raw in read(tmp_path, "wenet_shard", {"data.list": lines})] == ["a"]
    (raw,) = find("wenet_shard").read(open_store(str(tmp_path)), "data.list")
    drafted = draft("wenet_shard", raw.record, kind="asr", language="zh")
    assert (raw.id, drafted.audios, said(drafted)[1]) == ("a", ("wav/a.wav",), ("gpt", "你好"))


def test_recordings_are_cut_from_a_bucket_as_from_a_folder(tmp_path, s3):
    opus(tmp_path / "audio/a.opus", *range(400, 2000, 200))
    tar(tmp_path / "0.tar", ("a.txt", b"x"), ("a.wav", b"RIFF"))
    parts = [(str(second), second + 0.1, second + 0.9, {"text": "一"}) for second in range(8)]
    content = index(("audio/a.opus", parts), ("audio/b.opus", [("b", 0, 1, {"text": "二"})]))
    expected = read(tmp_path, "wenetspeech", {"WenetSpeech.json": content})
    bucket = open_store(s3)
    for path in (path for path in tmp_path.rglob("*") if path.is_file()):
        bucket.replace(str(path.relative_to(tmp_path)), path.read_bytes())
    found = list(find("wenetspeech").read(bucket, "WenetSpeech.json"))
    assert found == expected
    assert len(pitches(found)) == 8
    (raw,) = find("wenet_shard").read(bucket, "0.tar")
    assert bucket.read_range(*raw.media["wav"]) == b"RIFF"
