"""Features of speech: Kaldi's, by a reference written out here and by torchaudio where it is; as many as counted."""

import io
from importlib.util import find_spec

import numpy as np
import pytest
import soundfile
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tarsia.builders.audio import encode_flac, resampled_length
from tarsia.builders.fbank import fbank, features_of, frame_count
from tarsia.builders.tokens import audio_tokens

pytest.importorskip("kaldi_native_fbank", reason="pip install 'tarsia[train]'")


def chirp(seconds, rate=16_000):
    """A tone that rises over a floor of noise, the same each time."""
    at = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(7).normal(size=len(at)) * 60
    return np.rint(6000 * np.sin(2 * np.pi * (200 * at + 600 * at**2)) + noise).astype(np.int16)


def reference(samples):
    """Kaldi's definition in double precision: DC removal, pre-emphasis, Povey's window, 512 points, 80 triangles."""
    count = 1 + (len(samples) - 400) // 160
    frames = np.stack([samples[at * 160 : at * 160 + 400] for at in range(count)]).astype(np.float64)
    frames -= frames.mean(1, keepdims=True)
    frames -= 0.97 * np.concatenate([frames[:, :1], frames[:, :-1]], 1)
    frames *= (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 399)) ** 0.85
    power = np.abs(np.fft.rfft(frames, 512)) ** 2

    def mel(hertz):
        return 1127 * np.log1p(hertz / 700)

    edges = np.linspace(mel(20), mel(8000), 82)
    bins = mel(np.arange(256) * 16_000 / 512)  # Kaldi leaves out the last one
    rising = (bins[None] - edges[:-2, None]) / (edges[1] - edges[0])
    falling = (edges[2:, None] - bins[None]) / (edges[1] - edges[0])
    weights = np.maximum(0, np.minimum(rising, falling))
    return np.log(np.maximum(power[:, :256] @ weights.T, np.finfo(np.float32).eps))


def test_features_are_kaldis_to_single_precision():
    """Bands that hold a ten-millionth of the frame's energy differ most."""
    speech = chirp(3.3)
    ours = fbank(speech)
    assert ours.dtype == np.float32
    assert ours.shape == (328, 80)
    apart = np.abs(ours - reference(speech))
    assert apart.mean() < 1e-4
    assert apart.max() < 0.01


def test_features_are_those_that_were_there_before():
    golden = {(0, 0): 13.126, (0, 40): 12.469, (17, 10): 14.735, (60, 79): 16.784, (97, 5): 8.545}
    for features in (reference(chirp(1)), fbank(chirp(1))):
        assert {at: round(float(features[at]), 3) for at in golden} == pytest.approx(golden, abs=0.002)


def test_nothing_is_dithered():
    assert np.array_equal(fbank(chirp(2)), fbank(chirp(2)))


def test_silence_is_the_floor():
    assert (fbank(np.zeros(16_000, np.int16)) == np.log(np.finfo(np.float32).eps)).all()


def test_torchaudio_agrees_where_it_imports():
    if not find_spec("torchaudio"):
        pytest.skip("torchaudio is not installed")
    try:
        import torch
        from torchaudio.compliance import kaldi
    except (ImportError, OSError, RuntimeError) as error:
        pytest.skip(f"torchaudio does not import here: {error}")
    speech = chirp(5)
    wave = torch.from_numpy(speech.astype(np.float32))[None]
    theirs = kaldi.fbank(wave, num_mel_bins=80, dither=0.0, energy_floor=0.0, sample_frequency=16_000)
    assert np.abs(fbank(speech) - theirs.numpy()).max() < 0.01


@settings(max_examples=300)
@given(st.integers(1, 480_000))
@example(8_000)
@example(480_000)
@example(399)
@example(400)
def test_speech_is_as_many_tokens_as_vitas_encoder_leaves_of_its_frames(samples):
    frames = range(frame_count(samples))
    assert audio_tokens(samples, "vita") == len(frames[2::2][2::2][0::2])


@settings(max_examples=12)
@given(st.integers(0, 90_000))
@example(399)
@example(400)
@example(560)
def test_there_are_as_many_frames_as_counted(samples):
    assert fbank(np.zeros(samples, np.int16)).shape == (frame_count(samples), 80)


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 22_050, 24_000, 44_100, 48_000])
@pytest.mark.parametrize("samples", [13_577, 30_001])
def test_stored_speech_of_any_rate_is_as_long_as_planned(rate, samples):
    flac = encode_flac(chirp(samples / rate, rate), rate)
    assert soundfile.info(io.BytesIO(flac)).frames == samples
    assert len(features_of(flac)) == frame_count(resampled_length(samples, rate, 16_000))


def test_speech_of_another_rate_has_nearly_the_same_features():
    """The tone below 4 kHz, where no resampler's filter begins."""
    here, there = fbank(chirp(2)), features_of(encode_flac(np.repeat(chirp(2), 3), 48_000))
    assert np.abs(here[:-3, :40] - there[:-3, :40]).mean() < 0.5
