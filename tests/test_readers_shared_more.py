"""Readers of OCR, questions and text against a larger set of corpora that is no part of the checkout."""

import pytest
from test_readers_shared import CORPORA, count

from tarsia.builders.corpora import find
from tarsia.builders.storage import open_store

pytestmark = pytest.mark.skipif(not CORPORA.is_dir(), reason=f"no corpora in {CORPORA}")


@pytest.mark.parametrize("media", ["", "ch4_test_images"])
def test_ground_truth_finds_its_images_in_another_folder(media):
    assert count("ocr_icdar2015_gt", "icdar", "Challenge4_Test_Task1_GT/*.txt", media) == {"drafts": 22}


def test_ground_truth_finds_its_images_beside_it():
    assert count("ocr_icdar2015_gt", "icdar", "east_training_samples/*.txt") == {"drafts": 2}


def boxes(root, format_, files):
    """How many boxes the records of some files have, and how many lines could not be read."""
    store, reader = open_store(str(CORPORA / root)), find(format_)
    found = [raw.record for path in files for raw in reader.read(store, path)]
    said = [line for record in found for line in record.get("lines", record.get("boxes"))]
    return len(said), sum("###" in (line if isinstance(line, str) else line["transcription"]) for line in said)


def test_all_boxes_are_there():
    truth = sorted((CORPORA / "ocr_icdar2015_gt").glob("Challenge4_Test_Task1_GT/*.txt"))
    files = [f"Challenge4_Test_Task1_GT/{path.name}" for path in truth]
    assert boxes("ocr_icdar2015_gt", "icdar", files) == (194, 110)
    paddle = "train_data/icdar2015/text_localization/train_icdar2015_label.txt"
    assert boxes("ocr_icdar2015_paddle", "ppocrlabel", [paddle]) == (186, 100)
    assert boxes("ocr_ppocrlabel_zh", "ppocrlabel", ["train_data/mix/Label.txt"]) == (360, 0)


@pytest.mark.parametrize("kind", ["caption", "qa"])
def test_images_of_anyword_are_found_though_their_root_is_another_machines(kind):
    assert count("ocr_anyword_style", "anyword", "data.json", "imgs", kind=kind, language="zh+en") == {"drafts": 10}


@pytest.mark.parametrize("media", ["", "train_data"])
def test_labels_of_paddle_find_their_images_and_some_have_nothing_to_read(media):
    assert count("ocr_ppocrlabel_zh", "ppocrlabel", "**/Label.txt", media, language="zh") == {
        "drafts": 118,
        "ocr-nothing": 2,
    }
    root, files = "ocr_icdar2015_paddle", "train_data/**/*_label.txt"
    assert count(root, "ppocrlabel", files, media) == {"drafts": 25, "ocr-nothing": 1}


@pytest.mark.parametrize("media", ["", "train_data", "train_data/crop_img"])
def test_cut_outs_are_found(media):
    assert count("ocr_ppocr_rec", "ppocr_rec", "**/rec_gt.txt", media) == {"drafts": 240}


@pytest.mark.parametrize("file", ["labels.json", "old_label.txt", "old_label.jsonl"])
def test_cut_outs_of_mmocr_are_found_in_each_of_its_forms(file):
    folder = "rec_toy_dataset"
    assert count("ocr_mmocr_toy", "mmocr", f"{folder}/{file}", f"{folder}/imgs") == {"drafts": 10}


def test_receipts_are_read_and_outlines_without_text_refused():
    assert count("ocr_mmocr_toy", "mmocr", "kie_toy_dataset/wildreceipt/data.txt") == {"drafts": 2}
    assert count("ocr_mmocr_toy", "mmocr", "det_toy_dataset/textdet_test.json") == {"ocr-nothing": 10}


def test_problems_with_drawings_are_understood():
    assert count("qa_mathv", "mathv", "data/testmini.jsonl") == {"drafts": 160}


@pytest.mark.parametrize("media", ["", "tabmwp", "tabmwp/tables"])
def test_tables_are_found_by_the_number_of_their_problem(media):
    assert count("qa_tabmwp", "tabmwp", "tabmwp/problems_test1k.json", media) == {"drafts": 200}


def test_pictures_with_one_question_are_understood():
    assert count("qa_visualglm_zh", "visualglm", "fewshot-data/dataset.json", language="zh") == {"drafts": 12}


@pytest.mark.parametrize(
    ("root", "name", "media", "records"),
    [
        ("caption_nextgpt_cc3m", "cc3m/cc3m", "cc3m/images", 20),
        ("video_nextgpt_webvid", "webvid/webvid", "webvid/videos", 5),
    ],
)
def test_captions_and_questions_of_nextgpt_are_understood_and_orders_refused(root, name, media, records):
    assert count(root, "nextgpt", f"{name}.json", media, kind="caption") == {"drafts": records}
    assert count(root, "nextgpt", f"{name}_comprehension.json", media) == {"drafts": records}
    assert count(root, "nextgpt", f"{name}_generation.json", media) == {"media-as-answer": records}


def test_talks_of_moss_are_understood_and_those_that_draw_refused():
    assert count("text_moss", "moss", "**/*.json", language="zh+en") == {"drafts": 44, "media-as-answer": 4}


def test_seed_tasks_are_understood():
    assert count("text_self_instruct", "self_instruct", "seed_tasks.jsonl") == {"drafts": 175}


def test_single_and_many_turns_are_understood_as_belle_writes_them():
    assert count("text_llamafactory", "belle", "data/alpaca_zh_demo.json", language="zh") == {"drafts": 1000}
    assert count("text_sharegpt_fastchat", "belle", "dummy_conversation.json") == {"drafts": 500}


@pytest.mark.parametrize(
    ("file", "documents", "found"),
    [("c4_demo.jsonl", 150, {"drafts": 197}), ("wiki_demo.txt", 6, {"drafts": 65, "text-short": 1})],
)
def test_plain_text_is_cut_into_pieces(file, documents, found):
    root = "text_pretrain_c4_wiki"
    assert count(root, "plain", file) == found
    store, reader = open_store(str(CORPORA / root)), find("plain")
    assert len({(raw.begin, raw.end) for raw in reader.read(store, file)}) == documents
