"""What is printed is what is so: mixtures add up, and reasons are those of the samples."""

from lakes import chats, fill, pictures, plan, questions, recipe, say

from tarsia.pipelines import show


def cells(text):
    return [line.split() for line in text.splitlines()]


def test_the_mixture_of_a_stage_adds_up_over_kinds_modalities_and_languages(tmp_path):
    llava = {"format": "llava"}
    seen = (llava, pictures(tmp_path, [(64, 48)] * 4))
    corpora = {"asked": questions(8), "talks": (llava, chats(5)), "seen": seen}
    lake = fill(tmp_path, corpora)
    (manifest,) = plan(lake, recipe({"all": {"take": {"qa": "100%"}}}))
    head, *rows, total = cells(show.mixed([manifest]))
    assert head[4:9] == ["selected", "placed", "questions", "tokens", "share"]
    assert [row[2] for row in rows] == sorted(row[2] for row in rows)
    assert {row[2] for row in rows} == {"image", "text"}
    number = [[int(row[at].replace(",", "")) for row in rows] for at in (4, 5, 6, 7)]
    assert [sum(column) for column in number] == [int(one.replace(",", "")) for one in total[2:6]]
    tokens = sum(number[3])
    assert [row[8] for row in rows] == [f"{one / tokens:.2%}" for one in number[3]]
    assert number[0] == [4, 13]
    assert total[6] == "100.00%"


def test_samples_without_a_sound_in_a_speech_stage_are_not_blamed_on_tiles(tmp_path):
    lake = fill(tmp_path, {"seen": ({"format": "llava"}, pictures(tmp_path, [(64, 48)] * 4))})
    stage = {"pack": {"seconds": 20}, "take": {"qa": "100%"}}
    manifests = plan(lake, recipe({"all": stage}))
    said = show.planned(manifests)
    assert "tiles" not in said
    assert "100.0%" not in said
    assert f"4 of 4 selected samples are not placed; reasons in {manifests[0].tables['unplaced'].path}" in said


def test_long_texts_are_not_blamed_on_tiles(tmp_path):
    lake = fill(tmp_path, {"asked": [{"instruction": "Tell.", "output": say(number, 150)} for number in range(5)]})
    said = show.planned(plan(lake, recipe({"all": {"take": {"qa": "100%"}}}, tokens=320)))
    assert "more than half a context" in said
    assert "tiles" not in said
