"""Pages that people write: what is wrong in them is said by its place, with what would be right."""

import re
import textwrap
from pathlib import Path

import pytest

from tarsia.builders.documents import read_catalog, read_recipe, read_voices
from tarsia.schemas.errors import BadCatalog, BadRecipe, BadVoices, UnknownName

ENTRY = "{format: llava, kind: qa, language: en, licence: CC0, root: raw}"
VITA = (Path(__file__).parents[1] / "manifests" / "recipes" / "vita-1.5.yaml").read_text()


@pytest.fixture
def page(tmp_path):
    def page(text):
        path = tmp_path / "page.yaml"
        path.write_bytes(text if isinstance(text, bytes) else textwrap.dedent(text).encode())
        return path

    return page


def test_a_catalog_says_what_it_says(page, tmp_path):
    (corpus,) = read_catalog(page(f"corpora: {{coco: {ENTRY}}}")).corpora
    assert corpus.model_dump(mode="json") == {
        "name": "coco",
        "format": "llava",
        "kind": "qa",
        "language": "en",
        "licence": "CC0",
        "root": str(tmp_path / "raw"),
        "of": [],
        "files": [],
        "media": "",
        "strip": "",
        "sets": {},
        "tags": [],
        "cap": 4096,
        "template": None,
        "filters": {
            **dict.fromkeys(("questions", "question_chars", "answer_chars", "language", "width", "height")),
            **dict.fromkeys(("ratio", "seconds")),
            "contains": [],
            "lacks": [],
            "record": {},
        },
        "images": {"deep": False, "upright": False, "rgb": False, "longest": None},
        "videos": {"original": False},
        "dedup": None,
    }


@pytest.mark.parametrize(
    ("root", "meant"),
    [
        ("raw/coco", "{here}/raw/coco"),
        (".", "{here}"),
        ("../raw", "{above}/raw"),
        ("/data/coco", "/data/coco"),
        ("~/coco", "{home}/coco"),
        ("s3://bucket/coco", "s3://bucket/coco"),
    ],
)
def test_a_root_is_taken_from_the_catalogs_folder(page, tmp_path, monkeypatch, root, meant):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir("/")
    (corpus,) = read_catalog(page(f"corpora: {{coco: {ENTRY.replace('root: raw', f'root: {root}')}}}")).corpora
    assert corpus.root == meant.format(here=tmp_path, above=tmp_path.parent, home=tmp_path / "home")


def test_one_file_pattern_needs_no_list(page):
    (corpus,) = read_catalog(page(f"corpora: {{coco: {ENTRY.replace('}', ', files: a/*.json}')}}}")).corpora
    assert corpus.files == ("a/*.json",)


def test_entries_may_share_keys(page):
    catalog = read_catalog(page(f"corpora:\n  a: &a {ENTRY}\n  b: {{<<: *a, kind: caption}}\n"))
    assert [(corpus.name, corpus.kind.value) for corpus in catalog.corpora] == [("a", "qa"), ("b", "caption")]


ONE_KEY = "page.yaml: a catalog has a key 'corpora', and under it a name for each corpus"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "page.yaml: expected keys and values"),
        ("- corpora", "page.yaml: expected keys and values"),
        ("corpora:", ONE_KEY),
        ("corpora: [a, b]", ONE_KEY),
        (f"corpora: {{a: {ENTRY}}}\ncorpus: b", ONE_KEY),
        ("corpora: {a: raw}", "corpus 'a' needs keys such as format, kind, language, licence and root"),
        (f"corpora:\n  a: {ENTRY}\n  a: {ENTRY}", "page.yaml, line 3: 'a' is given twice"),
        ("corpora:\n  a:\n    root: x\n    root: y", "page.yaml, line 4: 'root' is given twice"),
        (f"corpora: {{My Corpus: {ENTRY}}}", "corpus 'My Corpus': name: String should match pattern"),
        (
            f"corpora: {{a: {ENTRY.replace('licence', 'lisence')}}}",
            "corpus 'a': no key 'lisence'; did you mean 'licence'?",
        ),
        (f"corpora: {{a: {ENTRY.replace('licence', 'lisence')}}}", "corpus 'a': licence: Field required"),
        (
            f"corpora: {{a: {ENTRY.replace('qa', 'vqa')}}}",
            "kind: Input should be 'caption', 'qa', 'asr', 'tts' or 'noise'",
        ),
        (f"corpora: {{a: {ENTRY.replace('en,', 'de,')}}}", "language: Input should be 'en', 'zh' or 'zh+en'"),
        (f"corpora: {{a: {ENTRY.replace('}', ', cap: 0}')}}}", "cap: Input should be greater than or equal to 1"),
        (f"corpora: {{a: {ENTRY.replace('}', ', files: [1]}')}}}", "files.0: Input should be a valid string"),
        (f"corpora: {{a: {ENTRY.replace('}', ', name: b}')}}}", "no key 'name'; the name stands in front of the entry"),
        (
            f"corpora: {{a: {ENTRY.replace('}', ', images: {depe: true}}')}}}",
            "no key 'images.depe'; did you mean 'deep'? Known: deep, longest, rgb, upright",
        ),
        (f"corpora: {{a: {ENTRY.replace('}', ', videos: {keep: true}}')}}}", "no key 'videos.keep'. Known: original"),
        (f"corpora: {{a: {ENTRY.replace('}', ', images: {longest: 9}}')}}}", "images.longest: Input should be greater"),
        (
            f"corpora: {{a: {ENTRY.replace('}', ', images: {deep: 3}}')}}}",
            "images.deep: Input should be a valid boolean",
        ),
        (f"corpora: {{a: {ENTRY.replace('}', ', sets: [a]}')}}}", "sets: Input should be a valid dictionary"),
        (f"corpora: {{a: {ENTRY.replace('}', ', templates: a}')}}}", "no key 'templates'; did you mean 'template'?"),
        ("corpora: {a: {? [x] : y}}", "page.yaml, line 1: found unhashable key"),
        ("corpora: {a: *b}", "page.yaml, line 1: found undefined alias 'b'"),
        ("corpora: {a: !!python/object:os.system {}}", "could not determine a constructor for the tag"),
        ("a: b: c", "page.yaml, line 1: mapping values are not allowed here"),
        ("corpora: {a: {", "page.yaml, line 1: expected the node content, but found '<stream end>'"),
        ("a: 1\n---\nb: 2", "page.yaml, line 2: but found another document"),
        ("a: \0", "page.yaml: not YAML: unacceptable character #x0000"),
        (b"\xff\xfe\x00", "page.yaml: cannot be read: 'utf-8' codec can't decode byte 0xff"),
    ],
)
def test_a_catalog_that_cannot_be_used_says_where_and_why(page, text, said):
    with pytest.raises(BadCatalog, match=re.escape(said)):
        read_catalog(page(text))


def test_all_mistakes_of_an_entry_are_said_at_once(page):
    with pytest.raises(BadCatalog) as caught:
        read_catalog(page("corpora: {a: {format: llava, kind: vqa, licence: 1}}"))
    assert [line.split("'a': ")[1].split(":")[0] for line in str(caught.value).splitlines()] == [
        "kind",
        "language",
        "licence",
        "root",
    ]


def test_a_page_that_is_not_there_is_said(tmp_path):
    with pytest.raises(BadCatalog, match=f"^no file {tmp_path}/nowhere.yaml$"):
        read_catalog(tmp_path / "nowhere.yaml")
    with pytest.raises(BadCatalog, match=r"cannot be read: .* Is a directory"):
        read_catalog(tmp_path)
    with pytest.raises(BadRecipe, match="no file /nowhere"):
        read_recipe("/nowhere.yaml")
    with pytest.raises(BadVoices, match="no file /nowhere"):
        read_voices("/nowhere.yaml")


def test_a_recipe_is_found_by_name_or_by_path(page):
    assert read_recipe("vita-1.5") == read_recipe(str(page(VITA)))
    with pytest.raises(UnknownName, match=r"no recipe 'vita-1\.6'; did you mean 'vita-1\.5'\?"):
        read_recipe("vita-1.6")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "seed:",
            "sead:",
            "page.yaml: no key 'sead'; did you mean 'seed'? Known: context, model, modules, seed, stages",
        ),
        ("take:", "tkae:", "page.yaml: no key 'stages.1.1.tkae'; did you mean 'take'?"),
        ("frames: {fps", "frames: {fsp", "no key 'context.frames.fsp'; did you mean 'fps'? Known: fps, max, min"),
        ("caption: 20%", "caption: 120% from 5%", "stages.1.1.take.caption: '120% from 5%' reaches 125%, a range ends"),
        ("caption: 20%", "caption: 1.5 samples", "stages.1.1.take.caption: '1.5 samples' is not a whole number of sam"),
        ("caption: 20%", "caption: 20K%", "stages.1.1.take.caption: '20K%' is no amount"),
        ("caption: 20%", "caption: {amount: 5%}", "stages.1.1.take.caption: '{'amount': '5%'}' is no amount"),
        (
            "{caption: 20%}",
            "[{knd: qa, amount: 1%}]",
            "no key 'stages.1.1.take.0.knd'; did you mean 'kind'? Known: amount,",
        ),
        ("{caption: 20%}", "[{kind: qa}]", "stages.1.1.take.0.amount: Field required"),
        ("{caption: 20%}", "[]", "stages.1.1.take: Tuple should have at least 1 item"),
        (
            "{caption: 20%}",
            "[{kind: qa, modality: images, amount: 1%}]",
            "stages.1.1.take.0.modality: no modality 'images'. Known: text, image, video",
        ),
        (
            "{caption: 20%}",
            "[{kind: qa, tag: ocr, amount: 5h, cap: 100 samples}]",
            "stages.1.1.take.0: cap: 100 samples must be samples, like 100K samples, and the amount a share",
        ),
        (
            "{caption: 20%}",
            "[{kind: qa, amount: 5%}, {kind: qa, tag: ocr, amount: 1%}]",
            "stages.1.1: take qa (tag ocr) comes after qa, which leaves nothing; put the narrower one first",
        ),
        ("caption: 4%, qa", "caption: 5M tokens, qa", "stages.2.2: spoken: what is heard changes the number of tokens"),
        ("train: [codec]", "train: [codec, codec]", "stages.3.1: train: ['codec', 'codec'] names a module twice"),
        ("train: [codec]", "train: [coder]", "stage '3.1': no module 'coder' to train; did you mean 'codec'?"),
        ("train: [codec]", "train: [Codec]", "stages.3.1.train.0: String should match pattern"),
        ("tiles: 12", "tiels: 12", "no key 'context.tiels'; did you mean 'tiles'?"),
        ("tiles: 12", "words: x", "context: words belongs to a .tiktoken file; the tokenizer is qwen2.5"),
        ("states: tokens", "states: marks", "context.states: Input should be 'tokens', 'numbers', 'labels' or 'none'"),
        ("tiles: 12", "interleave: [1, 10]", "context: interleave cuts sound into runs of codes; it needs audio: glm"),
        ("pack: {seconds: 600}", "pack: {token: 2048}", "no key 'stages.2.1.pack.token'; did you mean 'tokens'?"),
        ("pack: {seconds: 600}", "pack: {alone: [vidoe]}", "stages.2.1.pack.alone.0: Input should be 'caption', 'qa',"),
        ("caption: 20%", "caption: some", "stages.1.1.take.caption: 'some' is no amount; write a share like 20%"),
        ("caption: 20%", "captions: 20%", "stages.1.1.take.captions: Input should be 'caption', 'qa', 'asr', 'tts' or"),
        ("spoken: 50%", "spoken: 5h", "stages.2.2: spoken: 5h must be a share, like 50%"),
        ("tokens: 6000", "tokens: many", "context.tokens: Input should be a valid integer"),
        ("model: vita-1.5", "model: VITA 1.5", "model: String should match pattern"),
        ('"1.1":', '"1/1":', "stage '1/1': use letters, digits, '.', '_' and '-'"),
    ],
)
def test_a_recipe_that_cannot_be_used_says_where_and_why(page, old, new, said):
    assert old in VITA
    path = page(VITA.replace(old, new, 1))
    with pytest.raises(BadRecipe, match=re.escape(said)):
        read_recipe(str(path))


def test_voices_are_found_by_name_or_by_path(page):
    assert [voice.name for voice in read_voices("espeak").voices] == ["espeak-en", "espeak-zh"]
    assert read_voices(str(page("voices: {me: {engine: tone, language: en}}"))).name == "page"
    with pytest.raises(UnknownName, match=r"no pool of voices 'espaek'; did you mean 'espeak'\?"):
        read_voices("espaek")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("voices:", "page.yaml: a pool has a key 'voices', and under it a name for each voice"),
        ("voices: [a]", "page.yaml: a pool has a key 'voices', and under it a name for each voice"),
        ("voices: {a: espeak}", "page.yaml: voice 'a' needs keys such as engine and language"),
        ("voices: {a: {engine: e}}", "page.yaml: voice 'a': language: Field required"),
        ("voices: {a: {engine: e, lang: en}}", "voice 'a': no key 'lang'; did you mean 'language'?"),
        ("voices: {a: {engine: e, language: en, share: 0}}", "voice 'a': share: Input should be greater than 0"),
        (
            "voices: {a: {engine: e, language: en, options: {speed: 2}}}",
            "voice 'a': options.speed: Input should be a valid",
        ),
        ("voices:\n  a: {engine: e}\n  a: {engine: f}", "page.yaml, line 3: 'a' is given twice"),
    ],
)
def test_voices_that_cannot_be_used_say_where_and_why(page, text, said):
    with pytest.raises(BadVoices, match=re.escape(said)):
        read_voices(str(page(text)))
