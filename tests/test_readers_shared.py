"""Readers against a larger set of corpora that lies beside the checkout on some machines and is no part of it."""

from collections import Counter
from pathlib import Path

import pytest

from tarsia.builders.corpora import At, Fault, find
from tarsia.builders.samples import check_turns
from tarsia.builders.storage import match, open_store
from tarsia.schemas.corpus import Corpus
from tarsia.schemas.errors import Refused
from tarsia.schemas.identity import key_of

CORPORA = Path(__file__).parents[2] / "shared" / "corpora"

pytestmark = pytest.mark.skipif(not CORPORA.is_dir(), reason=f"no corpora in {CORPORA}")


def count(root, format_, files, media="", kind="qa", language="en"):
    """How many records of some files become drafts whose media are there, and how many are refused, by code."""
    corpus = Corpus(name="some", format=format_, kind=kind, language=language, licence="", root=str(CORPORA / root))
    store, reader = open_store(corpus.root), find(format_)
    codes = Counter()
    for entry in match(store, files):
        for number, found in enumerate(reader.read(store, entry.path)):
            if isinstance(found, Fault):
                codes[found.code] += 1
                continue
            at = At(corpus.model_copy(update={"media": media}), entry.path, key_of("some", str(number)))
            try:
                drafted = reader.draft(found.record, at)
                check_turns(drafted)
            except Refused as refused:
                codes[refused.code] += 1
                continue
            paths = drafted.images + drafted.videos + drafted.audios
            there = all(store.entry(f"{media}/{path}" if media else path) for path in paths)
            codes["drafts" if there else "media-missing"] += 1
    return dict(codes)


def test_every_caption_of_coco_finds_its_image():
    root, media = "caption_coco_mini", "coco/train2017"
    assert count(root, "coco", "coco/annotations/*.json", media, kind="caption") == {"drafts": 200}


def test_captions_in_the_form_of_llava_find_their_images():
    assert count("caption_coco_mini", "llava", "sharegpt4v_style.json", kind="caption") == {"drafts": 40}
    assert count("caption_celeba_llava", "llava", "celeba_image_train.json", "images") == {"drafts": 90}
    assert count("caption_celeba_llava", "llava", "celeba_image_eval.json", "images") == {"drafts": 10}


def test_conversations_about_several_images_are_understood():
    assert count("qa_mantis_multiimage", "llava", "train.json") == {"drafts": 32}
    assert count("qa_llamafactory_mllm", "llava", "data/mllm_demo.json", "data") == {"drafts": 6}


def test_conversations_about_sounds_are_understood():
    assert count("qa_llamafactory_mllm", "llava", "data/mllm_audio_demo.json", "data") == {"drafts": 3}


def test_document_questions_with_an_empty_answer_are_refused():
    files, media = "ureader_json/train.jsonl", "ureader_images"
    assert count("ocr_ureader_style", "llava", files, media) == {"drafts": 11, "answer-empty": 1}


def test_conversations_about_clips_are_understood():
    assert count("video_mantis_chat", "video", "train.json") == {"drafts": 4}
    assert count("qa_llamafactory_mllm", "video", "data/mllm_video_demo.json", "data") == {"drafts": 3}
    assert count("qa_llamafactory_mllm", "video", "data/mllm_video_audio_demo.json", "data") == {"drafts": 3}


def test_clips_that_a_model_should_make_are_refused():
    root, media = "video_nextgpt_webvid", "webvid/videos"
    assert count(root, "video", "webvid/webvid.json", media, kind="caption") == {"drafts": 5}
    assert count(root, "video", "webvid/webvid_comprehension.json", media) == {"drafts": 5}
    assert count(root, "video", "webvid/webvid_generation.json", media) == {"record-shape": 5}


@pytest.mark.parametrize("media", ["", "train_full_images_0"])
def test_street_views_are_found_with_and_without_a_media_folder(media):
    assert count("ocr_lsvt_style", "lsvt", "train_full_labels.json", media, language="zh") == {"drafts": 70}


def test_drawn_pages_lie_beside_their_metadata():
    assert count("ocr_synthdog", "donut", "zh/*/metadata.jsonl", language="zh") == {"drafts": 26}
    assert count("ocr_synthdog", "donut", "en/*/metadata.jsonl") == {"drafts": 14}


def test_utterances_find_their_audio():
    assert count("asr_librispeech", "librispeech", "**/*.trans.txt", kind="asr") == {"drafts": 43}


@pytest.mark.parametrize("kind", ["asr", "tts"])
def test_sentences_find_their_recordings(kind):
    assert count("asr_ljspeech", "ljspeech", "**/metadata.csv", kind=kind) == {"drafts": 8}


def test_instructions_are_understood():
    root = "text_llamafactory"
    assert count(root, "alpaca", "data/alpaca_en_demo.json") == {"drafts": 999}
    assert count(root, "alpaca", "data/alpaca_zh_demo.json", language="zh") == {"drafts": 1000}
    assert count(root, "alpaca", "data/identity.json", language="zh+en") == {"drafts": 91}


def test_talks_are_understood_and_questions_without_answers_refused():
    assert count("text_sharegpt_fastchat", "sharegpt", "dummy_conversation.json") == {"drafts": 500}
    assert count("text_sharegpt_fastchat", "sharegpt", "mt_bench/question.jsonl") == {"record-shape": 80}
