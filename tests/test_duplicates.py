"""Equal samples are counted, and where asked refused; evaluation sets are kept out; a fresh lake would be the same."""

import json
import shutil

import pytest
import yaml
from pictures import encoded, picture

from tarsia.builders.corpora import At, find
from tarsia.builders.documents import read_catalog
from tarsia.builders.duplicates import asked_of, said_of
from tarsia.builders.lake import Lake
from tarsia.builders.reading.unanswered import Unanswered
from tarsia.builders.tables import get_table
from tarsia.pipelines.ingest import ingest
from tarsia.pipelines.inspect import duplicates
from tarsia.pipelines.pool import open_pool
from tarsia.schemas.corpus import Corpus
from tarsia.schemas.errors import BadCatalog, Refused
from tarsia.schemas.identity import key_of
from tarsia.schemas.sample import Box, Draft, Turn


class Desk:
    """Raw corpora under a folder, a catalog of them, and lakes."""

    def __init__(self, folder):
        self.folder = folder
        self.corpora, self.exclude = {}, {}

    def corpus(self, name, records, form="llava", kind="qa", exclude=False, **entry):
        """A corpus of JSON records, or an excluded set; pictures lie beside all of them."""
        (self.folder / f"{name}.json").write_text(json.dumps(records))
        entries = self.exclude if exclude else self.corpora
        fixed = {"format": form, "kind": kind, "language": "en", "licence": "CC0", "root": ".", "cap": 4}
        entries[name] = {**fixed, "files": f"{name}.json", **entry}

    def draw(self, name, number, **options):
        """The file of a picture."""
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encoded(picture(number), **options))
        return name

    def catalog(self):
        page = {"corpora": self.corpora} | ({"exclude": self.exclude} if self.exclude else {})
        (self.folder / "catalog.yaml").write_text(yaml.safe_dump(page, sort_keys=False))
        return read_catalog(self.folder / "catalog.yaml")

    def ingest(self, lake="lake", workers=1, **options):
        with open_pool(workers, patience=0) as pool:
            reports = ingest(self.catalog(), Lake(str(self.folder / lake)), pool, quiet=True, **options)
        assert all(one.records == one.samples + sum(one.quarantined.values()) for one in reports)
        return {report.corpus: report for report in reports}

    def snapshot(self, lake="lake"):
        return Lake(str(self.folder / lake)).snapshot()

    def ids(self, corpus, lake="lake"):
        """The ids of the samples of a corpus."""
        opened, state = Lake(str(self.folder / lake)), self.snapshot(lake).corpus(corpus)
        return sorted(one for shard in state.shards for one in get_table(opened.store, shard.index)["id"].to_pylist())

    def refused(self, corpus, lake="lake"):
        """Code and message of every refusal, by id."""
        opened, state = Lake(str(self.folder / lake)), self.snapshot(lake).corpus(corpus)
        rows = get_table(opened.store, state.quarantine).to_pylist() if state.quarantine else []
        return {row["id"]: (row["code"], row["message"]) for row in rows}

    def groups(self, lake="lake"):
        found = duplicates(Lake(str(self.folder / lake))).groups
        return sorted(sorted(f"{corpus}/{own}" for corpus, own, _ in group.samples) for group in found)

    def is_as_fresh(self, workers=1):
        """Whether the lake's newest snapshot names the very objects that a fresh lake would hold."""
        shutil.rmtree(self.folder / "fresh", ignore_errors=True)
        self.ingest("fresh", workers)
        fresh, mine = (self.snapshot(lake).model_copy(update={"number": 0}) for lake in ("fresh", "lake"))
        paths = [stored["path"] for stored in named(mine.model_dump(mode="json"))]
        same = [(self.folder / lake / path).read_bytes() for path in paths for lake in ("fresh", "lake")]
        return fresh == mine and same[::2] == same[1::2]


def named(value):
    """Every stored object that a snapshot names."""
    if isinstance(value, dict) and {"path", "bytes", "digest"} <= value.keys():
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from named(inner)


@pytest.fixture
def desk(tmp_path):
    return Desk(tmp_path)


def ask(own, question, answer="Yes.", **media):
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"id": own, "conversations": turns, **media}


def see(own, image, question="What is it?", answer="Blots."):
    images = [image] if isinstance(image, str) else image
    return ask(own, "<image>" * len(images) + question, answer, image=image)


def first(corpus, *ids):
    """The ids in the order of their keys."""
    return sorted(ids, key=lambda own: key_of(corpus, own))


# --- what is equal --------------------------------------------------------------------------------------------------


def test_what_is_said_is_turns_and_boxes():
    turns = (Turn(speaker="human", text="Why?"), Turn(speaker="gpt", text="So."))
    other = (Turn(speaker="human", text="Why?"), Turn(speaker="gpt", text="So!"))
    box = Box(text="So", points=((0, 0), (4, 0), (4, 4)))
    said = [Draft(turns=turns), Draft(turns=other), Draft(turns=turns, boxes=(box,))]
    assert len({said_of(draft) for draft in said}) == 3
    assert said_of(Draft(turns=turns, images=("a.jpg",), speaker="she")) == said_of(Draft(turns=turns))


def test_a_question_is_the_same_however_it_is_spaced_and_capitalised():
    def asked(text, **media):
        return asked_of(Draft(turns=(Turn(speaker="human", text=text), Turn(speaker="gpt", text="So.")), **media))

    assert asked("What is  the SEA?\n") == asked("What is the sea?") != asked("What is the see?")
    assert asked("What is the sea?", images=("a.jpg",)) == 0


def test_equal_samples_are_counted_and_listed_and_stay(desk):
    for name in ("a.jpg", "b.jpg"):
        desk.draw(name, 1)
    desk.draw("c.jpg", 2)
    desk.corpus("one", [see("1", "a.jpg"), see("2", "b.jpg"), see("3", "c.jpg"), see("4", "a.jpg", "And this?")])
    desk.corpus("two", [see("5", "a.jpg"), ask("6", "Why?"), ask("7", "Why?")])
    reports = desk.ingest()
    assert {name: (one.samples, one.equal_within, one.equal_across) for name, one in reports.items()} == {
        "one": (4, 2, 2),
        "two": (3, 2, 1),
    }
    assert desk.groups() == [["one/1", "one/2", "two/5"], ["two/6", "two/7"]]
    again = desk.ingest()
    assert again["one"] == reports["one"].model_copy(update={"written": 0, "unchanged": True})
    assert desk.snapshot().number == 1


def test_a_lake_without_equals_lists_none(desk):
    desk.corpus("one", [ask("1", "Why?"), ask("2", "Where?")])
    desk.ingest()
    assert desk.groups() == []
    assert desk.snapshot().duplicates is None


def test_questions_that_were_drawn_do_not_tell_equal_captions_apart(desk):
    desk.draw("a.jpg", 1)
    page = {
        "images": [{"id": 1, "file_name": "a.jpg"}],
        "annotations": [{"id": number, "image_id": 1, "caption": "Soft blots."} for number in range(12)],
    }
    page["annotations"].append({"id": 12, "image_id": 1, "caption": "Blots, soft."})
    desk.corpus("captions", page, "coco", "caption", dedup="exact")
    assert desk.ingest()["captions"].quarantined == {"duplicate": 11}
    assert len(desk.ids("captions")) == 2
    desk.corpus("again", page, "coco", "caption", dedup="exact", template={"en": ["And this?"]})
    assert desk.ingest()["again"].quarantined == {"duplicate": 13}


def test_boxes_are_compared_whatever_question_was_drawn(desk):
    desk.draw("a.jpg", 1)
    lines = [
        {"transcription": "SEA", "points": [[0, 0], [50, 0], [50, 20], [0, 20]]},
        {"transcription": "BOAT", "points": [[0, 30], [60, 30], [60, 50], [0, 50]]},
    ]
    (desk.folder / "a").mkdir()
    for number in range(8):
        shutil.copy(desk.folder / "a.jpg", desk.folder / f"a/{number}.jpg")
    text = "".join(f"a/{number}.jpg\t{json.dumps(lines if number else lines[:1])}\n" for number in range(8))
    desk.corpus("signs", [], "ppocrlabel", files="Label.txt", dedup="exact")
    (desk.folder / "Label.txt").write_text(text)
    assert desk.ingest()["signs"].quarantined == {"duplicate": 6}


# --- dedup: exact ---------------------------------------------------------------------------------------------------


def test_of_three_equal_samples_the_one_with_the_smallest_key_stays(desk):
    desk.corpus("one", [ask(own, "Why?") for own in ("x", "y", "z")] + [ask("w", "Where?")], dedup="exact")
    report = desk.ingest()["one"]
    stays, *others = first("one", "x", "y", "z")
    assert (report.samples, report.quarantined, report.equal_within) == (2, {"duplicate": 2}, 0)
    assert desk.ids("one") == sorted(["w", stays])
    assert desk.refused("one") == {
        own: ("duplicate", f"equal to one/{stays} ({key_of('one', stays)})") for own in others
    }


def test_across_corpora_the_one_that_is_listed_first_stays(desk):
    records = [ask("x", "Why?"), ask("y", "Why?")]
    for name in ("one", "two", "three"):
        desk.corpus(name, records, dedup="exact")
    desk.ingest()
    (stays, other) = first("one", "x", "y")
    assert {name: desk.ids(name) for name in desk.corpora} == {"one": [stays], "two": [], "three": []}
    message = f"equal to one/{stays} ({key_of('one', stays)})"
    assert {message} == {said for name in desk.corpora for _, said in desk.refused(name).values()}
    desk.corpora = {name: desk.corpora[name] for name in ("three", "one", "two")}
    desk.ingest()
    assert {name: len(desk.ids(name)) for name in desk.corpora} == {"three": 1, "one": 0, "two": 0}
    assert other in desk.refused("one")
    assert desk.is_as_fresh()


def test_a_corpus_without_dedup_keeps_its_own_and_is_compared_with(desk):
    desk.corpus("one", [ask("x", "Why?"), ask("y", "Why?")])
    desk.corpus("two", [ask("x", "Why?"), ask("y", "Where?")], dedup="exact")
    desk.corpus("three", [ask("x", "Why?")])
    desk.ingest()
    assert {name: desk.ids(name) for name in desk.corpora} == {"one": ["x", "y"], "two": ["y"], "three": ["x"]}
    assert desk.groups() == [["one/x", "one/y", "three/x"]]


def test_an_original_that_is_refused_for_itself_is_no_original(desk):
    desk.draw("a.jpg", 1)
    (desk.folder / "cut.jpg").write_bytes((desk.folder / "a.jpg").read_bytes()[:-20])
    desk.corpus("one", [see("x", "cut.jpg"), see("y", "a.jpg")], dedup="exact")
    desk.corpus("two", [see("x", "a.jpg"), see("y", "cut.jpg")], dedup="exact")
    desk.ingest()
    assert {own: code for own, (code, _) in desk.refused("one").items()} == {"x": "image-truncated"}
    assert {own: code for own, (code, _) in desk.refused("two").items()} == {"x": "duplicate", "y": "image-truncated"}


def test_the_same_image_with_another_question_or_answer_is_no_duplicate(desk):
    desk.draw("a.jpg", 1)
    records = [see("1", "a.jpg"), see("2", "a.jpg", "What else?"), see("3", "a.jpg", answer="Spots.")]
    desk.corpus("one", records, dedup="near")
    assert desk.ingest()["one"].samples == 3


@pytest.fixture
def sums(desk):
    """Three corpora that overlap, the later two without duplicates."""
    for number, name in enumerate(("one", "two", "three")):
        records = [ask(f"{name}{at}", f"What is {at} twice?") for at in range(10 * number, 10 * number + 20)]
        desk.corpus(name, [*records, *[{**one, "id": f"{one['id']}b"} for one in records[:4]]], dedup="exact")
    del desk.corpora["one"]["dedup"]
    desk.ingest()
    return desk


def test_a_corpus_at_the_end_touches_no_other(sums):
    before = sums.snapshot()
    sums.corpus("four", [ask("1", "What is 7 twice?"), ask("2", "What is 77 twice?")], dedup="exact")
    reports = sums.ingest()
    assert [name for name, one in reports.items() if not one.unchanged] == ["four"]
    assert sums.ids("four") == ["2"]
    assert [state for state in sums.snapshot().corpora if state.corpus.name != "four"] == list(before.corpora)
    assert sums.is_as_fresh()


def test_a_record_that_leaves_lets_its_equal_in(sums):
    kept = [one for one in json.loads((sums.folder / "one.json").read_text()) if one["id"] != "one15"]
    sums.corpus("one", kept)
    reports = sums.ingest()
    assert {name: one.written for name, one in reports.items()} == {"one": 1, "two": 1, "three": 0}
    assert "two15" in sums.ids("two")
    assert sums.is_as_fresh()


def test_dedup_that_is_asked_for_or_taken_back_rewrites_what_changes(sums):
    sums.corpora["one"]["dedup"] = "exact"
    assert sums.ingest()["one"].quarantined == {"duplicate": 4}
    assert sums.is_as_fresh()
    del sums.corpora["two"]["dedup"]
    assert sums.ingest()["two"].samples == 24
    assert sums.is_as_fresh()


def test_one_corpus_alone_is_compared_with_what_stands_and_a_full_run_corrects_it(sums):
    three = [ask("new", "What is 5 twice?"), ask("own", "What is 500 twice?"), ask("late", "What is 600 twice?")]
    sums.corpus("three", three, dedup="exact")
    sums.corpus("one", [ask("x", "What is 600 twice?")])
    sums.ingest(only=["three"])
    assert sums.ids("three") == ["late", "own"]
    assert {name: (one.samples, one.written) for name, one in sums.ingest().items()} == {
        "one": (1, 1),
        "two": (20, 6),
        "three": (2, 1),
    }
    assert sums.ids("three") == ["new", "own"]
    assert sums.is_as_fresh()


# --- dedup: near ----------------------------------------------------------------------------------------------------


@pytest.fixture
def copies(desk):
    """Six pictures, and of three of them copies that were encoded anew, resized, or made grey."""
    pytest.importorskip("imagehash", reason="no perceptual hashes: pip install 'tarsia[near]'")
    for number in range(6):
        desk.draw(f"{number}.jpg", number)
    desk.draw("0-again.jpg", 0, quality=50)
    (desk.folder / "1-small.png").write_bytes(encoded(picture(1).resize((160, 120)), "PNG"))
    (desk.folder / "2-grey.webp").write_bytes(encoded(picture(2).convert("L").convert("RGB"), "WEBP"))
    return desk


COPIES = ("0-again.jpg", "1-small.png", "2-grey.webp")


def test_copies_of_an_image_are_refused_where_the_text_is_equal(copies):
    records = [see(str(number), f"{number}.jpg", f"What is {number % 3}?") for number in range(6)]
    again = [see(name, name, f"What is {name[0]}?") for name in COPIES]
    others = [see(f"{name}!", name, "What else is there?") for name in COPIES]
    copies.corpus("one", records, dedup="near")
    copies.corpus("two", [*again, *others], dedup="near")
    copies.corpus("exam", [see("q", "5.jpg", "Where?")], exclude=True)
    assert copies.ingest()["two"].quarantined == {"near-duplicate": 3}
    assert copies.refused("one") == {"5": ("excluded", "shows a medium of exam/q")}
    assert copies.refused("two")["0-again.jpg"] == ("near-duplicate", f"looks like one/0 ({key_of('one', '0')})")
    assert copies.ids("two") == sorted(f"{name}!" for name in COPIES)
    assert copies.is_as_fresh(workers=2)


def test_of_captions_the_image_alone_decides(copies):
    copies.corpus("one", [see("a", "0.jpg", answer="Blots.")], kind="caption", dedup="near")
    copies.corpus("two", [see("b", "0-again.jpg", answer="Spots.")], kind="caption", dedup="near")
    copies.corpus("three", [see("c", "0-again.jpg", answer="Spots.")], kind="qa", dedup="near")
    copies.corpus("four", [see("d", "0-again.jpg", answer="Dots.")], kind="qa", dedup="near")
    copies.ingest()
    assert {name: len(copies.ids(name)) for name in copies.corpora} == {"one": 1, "two": 0, "three": 1, "four": 1}


def test_corpora_that_ask_for_less_are_not_compared_by_looks(copies):
    copies.corpus("one", [see("a", "0.jpg"), see("b", "0-again.jpg")], dedup="exact")
    copies.corpus("two", [see("c", "0-again.jpg", answer="Dots."), see("d", "0.jpg", answer="Dots.")], dedup="near")
    copies.corpus("three", [see("e", "0-again.jpg", answer="Dots.")])
    copies.ingest()
    assert {name: len(copies.ids(name)) for name in copies.corpora} == {"one": 2, "two": 1, "three": 1}


def test_samples_of_several_images_are_alike_one_by_one(copies):
    pairs = {
        "a": ["0.jpg", "1.jpg"],
        "b": ["0-again.jpg", "1-small.png"],
        "c": ["1.jpg", "0.jpg"],
        "d": ["0.jpg", "2.jpg"],
    }
    copies.corpus("one", [see(own, images) for own, images in pairs.items()], dedup="near")
    assert copies.ingest()["one"].quarantined == {"near-duplicate": 1}
    assert {"c", "d"} < set(copies.ids("one"))


def test_near_is_compared_with_what_stands_in_the_lake(copies):
    copies.corpus("one", [see(str(number), f"{number}.jpg") for number in range(6)], dedup="near")
    copies.ingest()
    before = copies.snapshot().corpus("one")
    copies.corpus("two", [see(name, name) for name in COPIES], dedup="near")
    reports = copies.ingest()
    assert (reports["one"].unchanged, reports["two"].samples) == (True, 0)
    assert copies.snapshot().corpus("one") == before
    assert copies.is_as_fresh()


# --- exclude --------------------------------------------------------------------------------------------------------


@pytest.fixture
def bench(copies):
    """A corpus of pictures and of texts, and an evaluation set with copies of some."""
    seen = [see(str(number), f"{number}.jpg", f"What is {number}?") for number in range(6)]
    texts = [ask(f"t{number}", f"What is {number}  twice?", f"It is {2 * number}.") for number in range(6)]
    copies.corpus("train", [*seen, *texts])
    copies.draw("set0.jpg", 0, quality=40)
    shutil.copy(copies.folder / "3.jpg", copies.folder / "set1.jpg")
    records = [see("q0", "set0.jpg", "How many?", "-"), see("q1", "set1.jpg", "Where?", "There."), see("q2", "no.jpg")]
    copies.corpus("exam", [*records, ask("q3", "what is 4 twice?", "-")], exclude=True)
    copies.ingest()
    return copies


def test_what_stands_in_an_evaluation_set_is_refused_by_image_and_by_question(bench):
    assert bench.refused("train") == {
        "0": ("excluded", "looks like an image of exam/q0"),
        "3": ("excluded", "shows a medium of exam/q1"),
        "t4": ("excluded", "asks what exam/q3 asks"),
    }
    (exam,) = bench.snapshot().excluded
    assert (exam.records, exam.unread, exam.shows) == (4, {"media-missing": 1}, ("images",))
    assert bench.is_as_fresh()


def test_a_set_is_no_corpus_and_is_read_once(bench):
    assert [state.corpus.name for state in bench.snapshot().corpora] == ["train"]
    (bench.folder / "set0.jpg").unlink()  # nobody looks for it again
    bench.corpus("more", [see("m", "0-again.jpg", "What now?"), see("n", "5.jpg", "What now?")])
    reports = bench.ingest()
    assert (reports["train"].unchanged, reports["more"].quarantined) == (True, {"excluded": 1})


def test_another_set_rewrites_only_the_leaves_that_change(bench):
    shards = {shard.leaf: shard for shard in bench.snapshot().corpus("train").shards}
    bench.corpus("quiz", [see("z", "2-grey.webp", "Which?", "-")], exclude=True)
    assert bench.ingest()["train"].written == 1
    assert bench.refused("train")["2"] == ("excluded", "looks like an image of quiz/z")
    now = {shard.leaf: shard for shard in bench.snapshot().corpus("train").shards}
    assert len(now.keys() ^ shards.keys()) + sum(now[leaf] != shards[leaf] for leaf in now.keys() & shards.keys()) == 1
    assert bench.is_as_fresh()
    bench.exclude = {}
    assert bench.ingest()["train"].quarantined == {}
    assert bench.is_as_fresh()


def test_what_is_excluded_is_nobodys_original(bench):
    bench.corpus("twin", [see("a", "3.jpg"), see("b", "3.jpg"), see("c", "4.jpg"), see("d", "4.jpg")], dedup="exact")
    assert bench.ingest()["twin"].quarantined == {"duplicate": 1, "excluded": 2}


@pytest.mark.parametrize(
    ("form", "record", "asked"),
    [
        ("llava", {"conversations": [{"from": "human", "value": "<image>\nWhy?"}], "image": "a.jpg"}, "<image>\nWhy?"),
        ("llava", {"messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": ""}]}, "Why?"),
        ("alpaca", {"instruction": "Why?", "output": ""}, "Why?"),
        ("vqa", {"question": "Why?", "image_id": 7, "question_id": 8}, "<image>\nWhy?\n"),
        (
            "mathv",
            {"question": "Why?", "image": "a.jpg", "answer": "", "options": ["so", "not so"]},
            "<image>\nWhy?\nA.",
        ),
        ("scienceqa", {"question": "Why?", "choices": ["so", "not so"]}, "Why?\nA. so\nB. not so\n"),
        ("tabmwp", {"id": "1", "question": "Why?", "answer": "", "choices": None}, "<image>\nWhy?\n"),
    ],
)
def test_records_of_test_sets_need_no_answers_to_be_compared(form, record, asked):
    corpus = Corpus.model_validate(
        {"name": "exam", "format": form, "kind": "qa", "language": "en", "licence": "CC0", "root": "."}
    )
    at = At(corpus, "exam.json", "0" * 32)
    with pytest.raises(Refused):
        find(form).draft(record, at)
    assert Unanswered(find(form)).draft(record, at).turns[0].text.startswith(asked)
    with pytest.raises(Refused, match="an object was due"):
        Unanswered(find(form)).draft("nothing", at)


def test_a_set_without_answers_keeps_out_what_it_asks_and_shows(bench):
    silent = [{"id": "q1", "image": "5.jpg", "conversations": [{"from": "human", "value": "<image>\nWhich?"}]}]
    silent += [{"id": "q2", "conversations": [{"from": "human", "value": "What is 1 twice?"}]}]
    bench.corpus("silent", silent, exclude=True)
    assert bench.ingest()["train"].quarantined == {"excluded": 5}
    assert bench.refused("train")["5"] == ("excluded", "shows a medium of silent/q1")
    assert bench.refused("train")["t1"] == ("excluded", "asks what silent/q2 asks")


def test_a_set_of_which_nothing_can_be_read_is_a_mistake(bench):
    bench.corpus("quiz", [see("z", "nowhere.jpg")], exclude=True)
    with pytest.raises(BadCatalog, match="excluded set 'quiz': none of its records can be read: 1 media-missing"):
        bench.ingest()


def test_a_set_has_a_name_of_its_own(bench):
    bench.exclude["train"] = bench.exclude["exam"]
    with pytest.raises(BadCatalog, match="'train' is a corpus and an excluded set"):
        bench.catalog()
