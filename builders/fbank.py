"""Speech as the audio encoder hears it: Kaldi's log mel filter banks, 80 values every 10 ms of 25 ms at 16 kHz.

The features that VITA's encoder was trained on, by kaldi-native-fbank, without dither: the same speech gives the same
numbers. Samples keep their 16-bit scale, as Kaldi wants them; mean and variance are the model's own business.
"""

import numpy as np
from numpy.typing import NDArray

from tarsia.builders.audio import Pcm, decode_at
from tarsia.schemas.errors import MissingExtra

RATE = 16_000  # Hz
MELS = 80

Features = NDArray[np.float32]  # (frames, 80)


def fbank(samples: Pcm) -> Features:
    """The features of speech at 16 kHz, `frame_count` rows. Raises `MissingExtra`."""
    try:
        import kaldi_native_fbank as kaldi
    except ImportError:
        raise MissingExtra("kaldi-native-fbank", "train") from None
    options = kaldi.FbankOptions()
    options.frame_opts.dither = 0.0
    options.mel_opts.num_bins = MELS
    computer = kaldi.OnlineFbank(options)
    computer.accept_waveform(RATE, samples.astype(np.float32).tolist())  # it takes a list faster than an array
    features = np.empty((computer.num_frames_ready, MELS), np.float32)
    for number in range(len(features)):
        features[number] = computer.get_frame(number)
    return features


def features_of(flac: bytes) -> Features:
    """The features of stored speech of any rate."""
    return fbank(decode_at(flac, RATE))


def frame_count(samples: int) -> int:
    """How many frames speech of so many samples at 16 kHz has."""
    return max(0, 1 + (samples - 400) // 160)
