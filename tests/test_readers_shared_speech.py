"""Speech, tars, tables and clips of the larger set of corpora that lies beside the checkout on some machines.

Every record is read, every medium opened and checked as ingest would, so that each refusal below is one that a lake
would list, with its reason.
"""

from collections import Counter
from pathlib import Path

import pytest

from tarsia.builders.audio import read_audio
from tarsia.builders.corpora import At, Fault, Span, find
from tarsia.builders.images import read_image
from tarsia.builders.samples import check_turns
from tarsia.builders.storage import match, open_store
from tarsia.builders.video import read_video
from tarsia.schemas.corpus import Corpus
from tarsia.schemas.errors import NotThere, Refused
from tarsia.schemas.identity import key_of

CORPORA = Path(__file__).parents[2] / "shared" / "corpora"

pytestmark = pytest.mark.skipif(not CORPORA.is_dir(), reason=f"no corpora in {CORPORA}")


def count(root, format_, files="", kind="asr", language="en"):
    """How many records become drafts whose media can be used, and how many are refused, by code."""
    corpus = Corpus(name="some", format=format_, kind=kind, language=language, licence="", root=str(CORPORA / root))
    store, reader = open_store(corpus.root), find(format_)
    codes = Counter()
    for entry in (entry for pattern in ((files,) if files else reader.FILES) for entry in match(store, pattern)):
        for number, found in enumerate(reader.read(store, entry.path)):
            codes[_outcome(found, number, corpus, entry.path, reader, store)] += 1
    return dict(codes)


def _outcome(found, number, corpus, file, reader, store):
    if isinstance(found, Fault):
        return found.code
    try:
        drafted = reader.draft(found.record, At(corpus, file, key_of("some", str(number))))
        check_turns(drafted)
        for paths, check in (
            (drafted.images, read_image),
            (drafted.videos, read_video),
            (drafted.audios, lambda data, where: read_audio(data, rate=16_000, where=where)),
        ):
            for path in paths:
                check(_bytes(path, found, store), path)
    except Refused as refused:
        return refused.code
    except NotThere:
        return "media-missing"
    return "usable"


def _bytes(path, found, store):
    if not path.startswith("@"):
        return store.read(path)
    medium = found.media[path.removeprefix("@")]
    return store.read_range(*medium) if isinstance(medium, Span) else medium


def test_utterances_of_librispeech_are_all_usable():
    assert count("asr_librispeech", "librispeech") == {"usable": 43}


def test_sentences_of_ljspeech_are_all_usable():
    assert count("asr_ljspeech", "ljspeech", kind="tts") == {"usable": 8}


def test_digits_of_kaldi_are_mostly_too_short():
    assert count("asr_kaldi_fsdd", "kaldi") == {"usable": 67, "audio-short": 183}  # single digits, half of a second


def test_two_segments_of_gigaspeech_are_noise():
    assert count("asr_gigaspeech_style", "gigaspeech") == {"usable": 24, "transcript-garbage": 2}


def test_segments_of_wenetspeech_are_all_usable():
    assert count("asr_wenetspeech_style", "wenetspeech", language="zh") == {"usable": 150}


def test_clips_of_common_voice_are_those_that_were_validated():
    assert count("asr_common_voice_tw", "common_voice") == {"usable": 110}
    assert count("asr_common_voice_tw", "common_voice", "**/train.tsv") == {"usable": 105}
    assert count("asr_common_voice_tw", "common_voice", "**/test.tsv") == {"usable": 5}
    for header_only in ("dev", "other", "invalidated"):
        assert count("asr_common_voice_tw", "common_voice", f"**/{header_only}.tsv") == {}


def test_pairs_of_a_wenet_shard_are_usable_and_its_lists_name_another_root():
    root, language = "asr_wenet_shard", "zh+en"
    assert count(root, "wenet_shard", language=language) == {"usable": 2}
    assert count(root, "webdataset", language=language) == {"usable": 2}
    assert count(root, "wenet_shard", "dataset/data.list", language=language) == {"media-missing": 2}
    assert count(root, "kaldi", "dataset/text", language=language) == {"media-missing": 2}


def test_words_that_are_named_by_their_files_are_all_usable():
    assert count("asr_audio_cmn_hsk", "named_audio", language="zh") == {"usable": 300}


def test_prompts_without_audio_or_speech_are_refused():
    assert count("asr_asterisk_en", "asterisk") == {
        "usable": 118,  # of the 120 recordings; the other two are beeps
        "transcript-garbage": 17,  # tones, beeps, ten silences
        "media-missing": 434,
    }


def test_pairs_of_img2dataset_are_samples_and_failed_downloads_are_not_there():
    assert count("caption_img2dataset", "webdataset", kind="caption") == {"usable": 56}
    assert count("caption_img2dataset", "parquet", kind="caption") == {"record-shape": 58}  # addresses and no images


def test_clips_of_video2dataset_are_all_usable():
    assert count("video_v2d_webdataset", "webdataset", kind="caption") == {"usable": 6}


def test_the_table_of_webvid_names_clips_that_are_not_here():
    assert count("video_v2d_webdataset", "video", "test_webvid.csv", kind="caption") == {"media-missing": 20}


@pytest.mark.parametrize("format_", ["parquet", "hub"])
def test_images_in_tables_are_all_usable(format_):
    if format_ == "hub":
        pytest.importorskip("datasets")
    files = "**/*.parquet"
    assert count("caption_parquet", format_, files, kind="caption") == {"usable": 63}


def test_chinese_captions_beside_their_images_are_all_usable():
    assert count("caption_taiyi_zh", "image_text", kind="caption", language="zh") == {"usable": 6}


def test_conversations_about_clips_are_all_usable():
    assert count("video_mantis_chat", "video", "train.json", kind="qa") == {"usable": 4}
