import io

import av
import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from tarsia.builders.audio import AudioClip, decode_flac, encode_flac, read_audio, resample, resampled_length
from tarsia.schemas.errors import Refused


def tone(seconds, rate, hertz=440.0, loud=0.5):
    return (loud * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def stored(samples, rate, kind="WAV", subtype=None):
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=kind, subtype=subtype)
    return file.getvalue()


def pitch(samples, rate):
    """The loudest frequency, in Hz."""
    return np.abs(np.fft.rfft(samples)).argmax() * rate / len(samples)


def refusal(data):
    with pytest.raises(Refused) as caught:
        read_audio(data, rate=16_000, where="a.wav")
    return str(caught.value)


def test_speech_at_its_own_rate_is_bit_exact():
    samples = np.random.default_rng(1).integers(-32768, 32768, 16_000).astype(np.int16)
    flac, clip = read_audio(stored(samples, 16_000), rate=16_000, where="a")
    assert clip == AudioClip(samples=16_000, rate=16_000, source_rate=16_000)
    assert np.array_equal(decode_flac(flac), samples)


def test_the_same_speech_gives_the_same_bytes():
    data = stored(tone(1, 44_100), 44_100, "MP3")
    assert read_audio(data, rate=16_000, where="a") == read_audio(data, rate=16_000, where="b")


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "MP3", "OGG", "AIFF"])
def test_what_libsndfile_reads_is_resampled(kind):
    flac, clip = read_audio(stored(tone(1, 48_000), 48_000, kind), rate=16_000, where="a")
    assert clip == AudioClip(samples=16_000, rate=16_000, source_rate=48_000)
    assert pitch(decode_flac(flac), 16_000) == 440


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW"])
def test_every_sample_format_comes_out_equally_loud(subtype):
    flac, _ = read_audio(stored(tone(1, 16_000), 16_000, "WAV", subtype), rate=16_000, where="a")
    assert np.abs(decode_flac(flac).astype(int) - tone(1, 16_000) * 32768).max() < 600


def encoded(samples, rate, kind, codec, layout):
    """A container made by PyAV of samples by channels."""
    file = io.BytesIO()
    with av.open(file, "w", format=kind) as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format="flt", layout=layout)
        frame.rate = rate
        for part in (frame, None):
            container.mux(stream.encode(part))
    return file.getvalue()


@pytest.mark.parametrize(("kind", "codec"), [("mp4", "aac"), ("webm", "libopus"), ("matroska", "ac3")])
def test_what_libsndfile_cannot_read_is_read_by_pyav(kind, codec):
    data = encoded(np.stack([tone(1, 48_000), tone(1, 48_000, 880)], axis=1), 48_000, kind, codec, "stereo")
    flac, clip = read_audio(data, rate=16_000, where="a")
    assert clip.samples == pytest.approx(16_000, abs=800)  # codecs pad
    assert pitch(decode_flac(flac), 16_000) == pytest.approx(440, abs=1)


def test_only_the_first_channel_is_kept():
    stereo = np.stack([tone(1, 16_000, 440), tone(1, 16_000, 880)], axis=1)
    flac, _ = read_audio(stored(stereo, 16_000), rate=16_000, where="a")
    assert pitch(decode_flac(flac), 16_000) == 440
    assert np.abs(decode_flac(flac) - np.rint(stereo[:, 0] * 32768)).max() <= 1


def test_twelve_channels_do_no_harm():
    channels = np.stack([tone(1, 16_000)] * 12, axis=1)
    for data in (stored(channels, 16_000, "AU"), encoded(channels, 16_000, "matroska", "pcm_s16le", "7.1.4")):
        flac, clip = read_audio(data, rate=16_000, where="a")
        assert clip.samples == 16_000
        assert pitch(decode_flac(flac), 16_000) == 440


def test_the_gate_lets_half_a_second_to_thirty_seconds_pass():
    assert read_audio(stored(tone(0.5, 16_000), 16_000), rate=16_000, where="a")[1].samples == 8_000
    assert read_audio(stored(tone(30, 16_000), 16_000), rate=24_000, where="a")[1].samples == 720_000
    assert refusal(stored(tone(0.5, 16_000)[:-1], 16_000)) == "audio-short: a.wav: 0.50 s, shorter than 0.5 s"
    assert refusal(stored(np.ones(480_001, np.int16), 16_000)) == "audio-long: a.wav: longer than 30 s"
    assert refusal(encoded(tone(31, 48_000), 48_000, "mp4", "aac", "mono")) == "audio-long: a.wav: longer than 30 s"


def test_silence_is_refused():
    assert refusal(stored(np.zeros(16_000, np.int16), 16_000)).startswith("audio-silent")


def test_nothing_is_refused_as_empty():
    assert refusal(b"").startswith("audio-empty")
    assert refusal(stored(np.zeros(0, np.int16), 16_000)).startswith("audio-empty")


def test_what_is_no_audio_is_refused():
    assert refusal(b"<html>404</html>" * 9).startswith("audio-unreadable")
    assert refusal(stored(np.full(16_000, np.nan, np.float32), 16_000, "WAV", "FLOAT")).startswith("audio-unreadable")


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "MP3"])
def test_what_breaks_off_is_refused(kind):
    data = stored(np.random.default_rng(1).integers(-9000, 9000, 48_000).astype(np.int16), 16_000, kind)
    assert refusal(data[: len(data) * 2 // 3]).startswith("audio-unreadable")


@pytest.mark.parametrize(("kind", "codec"), [("webm", "libopus"), ("matroska", "ac3")])
def test_what_breaks_off_in_a_container_is_refused_too(kind, codec):
    data = encoded(tone(4, 48_000), 48_000, kind, codec, "mono")
    assert read_audio(data, rate=16_000, where="a")[1].samples == pytest.approx(64_000, abs=800)
    assert "breaks off after" in refusal(data[: len(data) * 2 // 3])


def test_an_mp4_whose_tail_is_lost_is_refused():
    data = encoded(tone(4, 48_000), 48_000, "mp4", "aac", "mono")
    assert refusal(data[: len(data) * 2 // 3]).startswith("audio-unreadable")
    assert refusal(data[: len(data) // 3] + bytes(len(data) // 3) + data[len(data) * 2 // 3 :]).startswith("audio-")


@pytest.mark.parametrize("rate", [1, 50, 3_999, 384_001, 4_000_000])
def test_rates_at_which_nobody_records_speech_are_refused(rate):
    data = stored(np.ones(9_000, np.int16), rate)
    assert refusal(data) == f"audio-rate: a.wav: {rate} Hz"


@pytest.mark.parametrize("rate", [4_000, 8_000, 192_000])
def test_rates_of_telephones_and_studios_are_read(rate):
    assert read_audio(stored(tone(1, rate, 200), rate), rate=16_000, where="a")[1].samples == 16_000


def test_a_first_channel_without_speech_is_silent_whatever_the_second_says():
    stereo = np.stack([np.zeros(16_000, np.float32), tone(1, 16_000)], axis=1)
    assert refusal(stored(stereo, 16_000)) == "audio-silent: a.wav: all samples of the first channel are zero"


def test_a_video_without_sound_is_refused():
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(10):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode())
    assert refusal(file.getvalue()) == "audio-unreadable: a.wav: there is no sound in it"


def test_a_header_that_claims_hours_costs_no_memory():
    data = bytearray(stored(tone(1, 16_000), 16_000))
    data[4:8], data[40:44] = (0x7FFF_FFF0).to_bytes(4, "little"), (0x7FFF_FF00).to_bytes(4, "little")
    assert read_audio(bytes(data), rate=16_000, where="a")[1].samples == 16_000


def test_a_streamed_wav_that_does_not_know_its_size_is_read():
    data = bytearray(stored(tone(1, 16_000), 16_000))
    data[4:8] = data[40:44] = b"\xff\xff\xff\xff"
    assert read_audio(bytes(data), rate=16_000, where="a")[1].samples == 16_000


def test_a_playlist_opens_no_other_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret.mp4").write_bytes(encoded(tone(1, 48_000), 48_000, "mp4", "aac", "mono"))
    assert refusal(b"ffconcat version 1.0\nfile secret.mp4\n").startswith("audio-unreadable")


def test_lengths_after_resampling_are_rounded_up():
    assert resampled_length(48_000, 48_000, 16_000) == 16_000
    assert resampled_length(48_001, 48_000, 16_000) == 16_001
    assert resampled_length(22_050, 22_050, 16_000) == 16_000
    assert resampled_length(1, 44_100, 16_000) == 1
    assert resampled_length(0, 44_100, 16_000) == 0


@given(
    st.integers(1, 60_000),
    st.sampled_from([8_000, 11_025, 22_050, 24_000, 32_000, 44_100, 48_000]),
    st.sampled_from([16_000, 24_000]),
)
def test_resampling_gives_exactly_that_length(samples, source_rate, rate):
    assert len(resample(np.ones(samples, np.int16), source_rate, rate)) == resampled_length(samples, source_rate, rate)


def test_resampling_to_the_same_rate_changes_nothing():
    samples = np.arange(-32768, 32768).astype(np.int16)
    assert np.array_equal(resample(samples, 16_000, 16_000), samples)


def test_resampling_keeps_the_wave():
    heard = resample((tone(1, 48_000) * 32767).astype(np.int16), 48_000, 16_000)
    assert np.abs(heard[200:-200] - tone(1, 16_000)[200:-200] * 32767).max() < 20


def test_flac_holds_the_samples_and_is_the_same_each_time():
    samples = (tone(1, 24_000) * 32767).astype(np.int16)
    assert np.array_equal(decode_flac(encode_flac(samples, 24_000)), samples)
    assert encode_flac(samples, 24_000) == encode_flac(samples, 24_000)


def test_resampling_agrees_with_torchaudio():
    try:
        import torchaudio.functional as reference  # first: torch alone takes seconds to import
        from torch import from_numpy
    except (ImportError, OSError, RuntimeError) as error:
        pytest.skip(f"torchaudio does not import here: {error}")
    samples = (tone(1, 48_000) * 32767).astype(np.int16)
    heard = resample(samples, 48_000, 16_000)
    expected = reference.resample(from_numpy(samples.astype(np.float32)), 48_000, 16_000).numpy()
    assert len(heard) == len(expected)
    assert np.abs(heard[200:-200] - expected[200:-200]).max() < 10
