"""Exports: what VITA's and VITA-Audio's loaders are given, that it can be read back, and that nothing is lost."""

import io
import json
import runpy
from collections import Counter
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import yaml
from lakes import chats, clips, files, fill, pictures, plan, questions, recipe, recordings, rows, say, tone, voice

from tarsia.builders.audio import decode_flac
from tarsia.builders.lake import Lake
from tarsia.builders.storage import open_store
from tarsia.builders.tokens import frame_positions
from tarsia.manifests.export import dialect_of
from tarsia.manifests.stream import Stream
from tarsia.pipelines import export as exporting
from tarsia.pipelines.cli import app
from tarsia.pipelines.export import export
from tarsia.pipelines.pool import open_pool
from tarsia.schemas.errors import Corrupt, Drift, StorageFault, UnknownName, UserError

STAGE = "small/all"
KINDS = dict.fromkeys(("qa", "asr", "noise", "tts"), "100%")
ALL = {
    "take": KINDS,
    "spoken": "50%",
    "pack": {"alone": ["video"]},
}  # noise shares contexts, as VITA's files allow once
PAGE = recipe({"all": ALL, "words": {"take": {"tts": "100%"}, "pack": False}}, tokens=1600, tiles=2)
LLAVA = {"format": "llava"}


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    """A planned lake of everything: half of its questions heard, noise and some text-to-speech made by a voice."""
    folder, patch = tmp_path_factory.mktemp("export"), pytest.MonkeyPatch()
    looks = pictures(folder, [(300, 300), (640, 480), (400, 800), (64, 64), (64, 64), (64, 64)])
    both = {"id": "both", "image": ["images/3.jpg", "images/4.jpg"]}
    both["conversations"] = talk("<image>\n<image>\nWhich of them is darker?", "The first.")
    apart = {"id": "apart", "image": ["images/3.jpg", "images/5.jpg"]}
    apart["conversations"] = talk(
        "<image>\nWhat is to be seen in the first picture here?",
        "A square.",
        "And in <image> what is there to be seen?",
        "Another.",
    )
    films = clips(folder, [1.0, 4.0])
    recordings(folder, [1.0, 1.5, 2.0])
    (folder / "LJ/wavs").mkdir(parents=True)
    wave = (9000 * np.sin(np.arange(22_050) / 8)).astype(np.int16)
    soundfile.write(folder / "LJ/wavs/L0.wav", wave, 22_050)
    (folder / "LJ/metadata.csv").write_text("L0|raw|It was calm on the first day.\n")
    corpora = {
        "sums": questions(40, words=60),
        "talk": (LLAVA, chats(15)),
        "looks": (LLAVA, [*looks, both, apart]),
        "films": ({"format": "video"}, films[:1]),
        "reels": ({"format": "video", "videos": {"original": True}}, films[1:]),
        "read": ({"format": "librispeech", "kind": "asr", "files": "LibriSpeech/*/*/*/*.trans.txt"}, None),
        "noise": ({"format": "answers", "kind": "noise", "root": "", "of": ["harbours"]}, None),
        "harbours": [{"id": f"h{n}", "instruction": f"What of harbour {n}?", "output": stated(n)} for n in range(4)],
        "lines": (
            {"format": "sentences", "kind": "tts"},
            [{"id": "s", "text": "The sea was calm and the boat small."}],
        ),
        "ready": ({"format": "ljspeech", "kind": "tts", "root": "LJ"}, None),
    }
    made = fill(folder, corpora, cap=20)
    voice(made, PAGE, tone(folder, patch))
    plan(made, PAGE, voices="tone")
    patch.undo()
    return made


def talk(*said):
    return [{"from": ("human", "gpt")[at % 2], "value": text} for at, text in enumerate(said)]


def stated(number):
    return f"The harbour {number} lies in the north of the town. Its walls are of grey stone, and {say(number, 5)}."


def run(lake, place, *, workers=1, stage=STAGE, **options):
    with open_pool(workers, patience=0) as pool:
        return export(lake, stage, str(place), pool, quiet=True, **options)


@pytest.fixture(scope="module")
def vita(lake, tmp_path_factory):
    place = tmp_path_factory.mktemp("vita")
    return place, run(lake, place)


@pytest.fixture(scope="module")
def placed(lake):
    """What a trainer that streams the stage is given."""
    return [part for batch in Stream(lake.url, STAGE) for part in batch.contexts[0].samples]


def written(place, stage=STAGE):
    return json.loads((Path(place) / stage / "records.json").read_bytes())


def lines(place, name):
    return [json.loads(line) for line in (Path(place) / STAGE / name).read_bytes().splitlines()]


# --- VITA -----------------------------------------------------------------------------------------------------------


def test_every_placed_sample_is_a_record_in_training_order_or_is_named_among_those_left_out(lake, vita, placed):
    place, made = vita
    records, left = written(place), lines(place, "left-out.jsonl")
    out = {row["key"] for row in left}
    assert [record["id"] for record in records] == [part.sample.key for part in placed if part.sample.key not in out]
    assert len(records) + len(left) == made.placed == len(placed)
    manifest = Stream(lake.url, STAGE).manifest
    assert made.placed == sum(one.placed for one in manifest.counts)
    assert Counter((row["corpus"], row["reason"]) for row in left) == {
        ("looks", "images-in-turn"): 1,
        ("lines", "answer-spoken"): 1,
        ("ready", "answer-spoken"): 1,
    }
    where = {(row["context"], row["slot"]): row["key"] for row in rows(lake, manifest)}
    assert all(where[row["context"], row["slot"]] == row["key"] for row in left)
    assert {one.corpus: one.left_out for one in made.corpora if one.left_out} == {
        "looks": {"images-in-turn": 1}, "lines": {"answer-spoken": 1}, "ready": {"answer-spoken": 1}
    }  # fmt: skip


def test_every_record_is_what_vitas_loader_needs_and_does_not_check(vita):
    place, made = vita
    config = runpy.run_path(str(place / STAGE / "config.py"))
    (data,) = config["DataConfig"][STAGE]
    records = json.loads(Path(data["chat_path"]).read_bytes())
    assert len(records) == made.records > 60
    seen = Counter()
    for record in records:
        turns = record["conversations"]
        assert [turn["from"] for turn in turns] == ["human", "gpt"] * (len(turns) // 2)
        assert all(turn["value"].strip() for turn in turns)
        said = [turn["value"] for turn in turns]
        assert not any(f"<{kind}>" in text for text in said[1::2] for kind in ("image", "video", "audio"))
        images, audios = record.get("image", []), record.get("audio", [])
        images = [images] if isinstance(images, str) else images
        sets = [record["set"]] if isinstance(record["set"], str) else record["set"]
        assert isinstance(record["set"], list) is (len(images) > 1)
        assert len(images) == sum(text.count("<image>") for text in said)
        assert all(text.count("<image>") < 2 for text in said)
        assert "<video>" not in "".join(said) or isinstance(record["video"], str) and "image" not in record
        assert len(audios) == sum(text.count("<audio>") for text in said)
        assert not {"image", "video", "audio"} & {name for name, value in record.items() if not value}
        paths = [Path(data[name], path) for name, path in zip(sets, images, strict=False)]
        paths += [Path(data[sets[0]], record["video"])] if "video" in record else []
        assert all(path.is_file() for path in paths)
        for name in audios:
            sound = soundfile.info(Path(config["AudioFolder"], "audio", name))
            assert (sound.format, sound.subtype, sound.samplerate, sound.channels) == ("WAV", "PCM_16", 16_000, 1)
        if "inserted_id" in record:
            assert turns[record["inserted_id"]]["from"] == "gpt"
            assert audios
        seen.update({f"{len(images)} images", *record})
    assert all(seen[name] for name in ("image", "video", "audio", "inserted_id", "2 images"))


def test_an_export_that_is_ingested_says_and_shows_what_was_trained_on(vita, placed, tmp_path):
    place, made = vita
    entry = {"format": "vita", "root": str(place), "files": f"{STAGE}/records.json", "videos": {"original": True}}
    again = fill(tmp_path, {"back": (entry, None), "unmeant": ({**entry, "kind": "noise"}, None)})
    parts = {part.sample.id: part for part in whole(again, {"qa": "100%", "noise": "100%"})}
    told = {key: part.sample for key, part in parts.items()}
    out = lines(place, "left-out.jsonl")
    short = (
        again.snapshot().corpus("back").quarantined.pop("audio-short", 0)
    )  # of the tests' voice: below half a second
    assert made.records == len(told) + short == len(placed) - len(out)
    assert short < 3
    noises = [part.sample.key for part in placed if part.sample.kind == "noise"]
    assert sorted(noises) == sorted(one.id for one in told.values() if one.corpus == "unmeant")
    films = 0
    for part in placed:
        sample = part.sample
        if sample.key not in told:
            continue
        back = told[sample.key]
        if sample.corpus != "films":  # which comes back at another rate: other frames of it are seen
            assert parts[sample.key].tokens == part.tokens
        heard = [turn.text for turn in sample.conversations]
        for turn in part.asked:
            heard[2 * turn] = back.conversations[2 * turn].text
            assert heard[2 * turn] == "<image>" * sample.conversations[2 * turn].text.count("<image>") + "<audio>"
        assert [turn.text for turn in back.conversations] == heard
        assert [image.digest for image in back.images] == [image.digest for image in sample.images]
        if part.asked:
            assert len(back.audios) == len(part.asked)
        else:
            assert [audio.digest for audio in back.audios] == [audio.digest for audio in sample.audios]
        originals = [(one, again) for one, again in zip(sample.videos, back.videos, strict=True) if one.original]
        assert all(one.original.digest == again.original.digest for one, again in originals)
        films += len(originals)
    assert films == 1


def whole(lake, take):
    page = recipe({"1": {"take": take, "pack": False}}, tiles=2)
    plan(lake, page)
    return [part for batch in Stream(lake.url, "small/1") for part in batch.contexts[0].samples]


def test_a_heard_question_is_the_clip_at_sixteen_kilohertz_in_its_own_place(vita, placed):
    place = vita[0]
    records, checked = {record["id"]: record for record in written(place)}, 0
    for part in placed:
        if not part.asked or part.sample.key not in records:
            continue
        record = records[part.sample.key]
        for name, turn in zip(record["audio"], sorted(part.asked), strict=True):
            assert "<audio>" in record["conversations"][2 * turn]["value"]
            wave, rate = soundfile.read(place / "audio" / name, dtype="int16")
            assert (rate, wave.tolist()) == (16_000, decode_flac(part.heard[turn]).tolist())  # the engine's own rate
            checked += 1
    assert checked > 20


def test_a_video_without_its_file_is_the_frames_that_the_plan_counts_as_they_are_stored(vita, placed):
    place = vita[0]
    videos = {record["set"]: record["video"] for record in written(place) if "video" in record}
    assert {name: path.rsplit(".")[-1] for name, path in videos.items()} == {"films": "avi", "reels": "mp4"}
    (part,) = [part for part in placed if part.sample.corpus == "films"]
    (video,) = part.sample.videos
    wanted = frame_positions(video.length, video.fps, rate=1, least=4, most=16)
    stored = {frame.position: part.media[frame.member] for frame in video.frames}
    with av.open(io.BytesIO((place / videos["films"]).read_bytes())) as container:
        stream = container.streams.video[0]
        assert stream.average_rate == 3  # VITA-1.5's loader takes three a second: all of them
        frames = [bytes(packet) for packet in container.demux(stream) if packet.size]
    assert frames == [stored[position] for position in wanted]
    shown = frame_positions(len(frames), 3, rate=3, least=4, most=16)
    assert shown == list(range(len(wanted)))


def test_contexts_are_long_chats_of_the_same_conversations(lake, vita, tmp_path):
    made = run(lake, tmp_path, per="context")
    alone = {record["id"]: record for record in written(vita[0])}
    records, out = written(tmp_path), {row["key"] for row in lines(tmp_path, "left-out.jsonl")}
    manifest = Stream(lake.url, STAGE).manifest
    assert made.records == len(records)
    members: dict[int, list[str]] = {}
    for row in rows(lake, manifest):
        if row["key"] not in out:
            members.setdefault(row["context"], []).append(row["key"])
    together = Counter()
    for record in records:
        keys = record["id"] if isinstance(record["id"], list) else [record["id"]]
        parts = [alone[key] for key in keys]
        assert record["conversations"] == [turn for part in parts for turn in part["conversations"]]
        assert record.get("audio", []) == [path for part in parts for path in part.get("audio", [])]
        if len(keys) == 1:
            assert record == parts[0]
            continue
        shown = [(name, path) for part in parts for name, path in zip(*both(part), strict=True)]
        assert list(zip(record["set"], record.get("image", []), strict=True)) == shown
        noises = [part for part in parts if "inserted_id" in part]
        assert len(noises) == ("inserted_id" in record)
        if noises:
            at = record["inserted_id"]
            assert record["conversations"][at - 1 : at + 1] == noises[0]["conversations"]
        together["noise"] += len(noises)
        together["contexts"] += any(set(keys) <= set(mine) for mine in members.values())
    assert together["noise"] > 0
    assert together["contexts"] > 3
    every = [key for record in records for key in (record["id"] if isinstance(record["id"], list) else [record["id"]])]
    assert sorted(every) == sorted(alone)


def both(record):
    """The sets and paths of a record's images."""
    if "image" not in record:
        return [], []
    return (
        (record["set"], record["image"]) if isinstance(record["image"], list) else ([record["set"]], [record["image"]])
    )


# --- VITA-Audio -----------------------------------------------------------------------------------------------------


def test_what_vita_audio_is_told_comes_back_in_the_direction_of_each_kind(lake, placed, tmp_path):
    place = tmp_path / "out"
    made = run(lake, place, dialect="vita-audio")
    records = lines(place, "records.jsonl")
    left = lines(place, "left-out.jsonl")
    assert {(row["corpus"], row["reason"]) for row in left} == {("noise", "noise-unmarked")}
    assert len(records) == made.records == len(placed) - len(left)
    page = yaml.safe_load((place / STAGE / "config.yaml").read_text())
    assert page["dataset"][STAGE]["data_paths"] == [str(place / STAGE / "records.jsonl")]
    for record in records:
        said = "".join(message["content"] for message in record["messages"])
        for kind in ("image", "video", "audio"):
            paths = record.get(f"{kind}s", [])
            assert said.count(f"<|{kind}|>") == len(paths)
            assert all(Path(path).is_file() for path in paths)
    asked = [record["messages"][0]["content"] for record in records]
    assert sum(text == "Convert the speech to text.\n<|audio|>" for text in asked) == 3
    assert sum(text.startswith("Convert the text to speech.\n") for text in asked) == 2

    kinds = {"asr": "asr", "tts": "tts"}
    by_kind = {"asr": asked_as("Convert the speech", records), "tts": asked_as("Convert the text", records)}
    entry = {"format": "vita_audio", "root": str(place), "strip": f"{place}/"}
    for name, mine in by_kind.items():
        (place / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in mine))
    corpora = {name: ({**entry, "kind": kind, "files": f"{name}.jsonl"}, None) for name, kind in kinds.items()}
    again = whole(fill(tmp_path, corpora), {"asr": "100%", "tts": "100%"})
    assert sorted(said_by(part) for part in again) == sorted(
        said_by(part) for part in placed if part.sample.kind in ("asr", "tts")
    )
    sounds = {part.sample.audios[0].digest for part in placed if part.sample.corpus == "read"}
    assert sounds == {part.sample.audios[0].digest for part in again if part.sample.corpus == "asr"}


def asked_as(words, records):
    return [record for record in records if record["messages"][0]["content"].startswith(words)]


def said_by(part):
    return tuple(turn.text for turn in part.sample.conversations)


# --- promises -------------------------------------------------------------------------------------------------------


def test_the_files_are_the_same_for_any_number_of_workers_and_parts(lake, vita, tmp_path):
    made = run(lake, tmp_path, workers=2, part_bytes=20_000, root=str(vita[0]))
    assert made.files == vita[1].files
    assert files(tmp_path) == files(vita[0])


def test_a_bucket_holds_the_same(lake, vita, s3):
    run(lake, s3, root=str(vita[0]))
    store = open_store(s3)
    assert {entry.path: store.read(entry.path) for entry in store.list()} == files(vita[0])


def test_what_was_done_before_a_failure_is_not_done_again(lake, vita, tmp_path, monkeypatch):
    real, ran = exporting.contexts, []

    def failing(store, manifest, first, last):
        if len(ran) == 3:
            raise StorageFault("the disk is full")
        ran.append(first)
        return real(store, manifest, first, last)

    monkeypatch.setattr(exporting, "contexts", failing)
    with pytest.raises(StorageFault):
        run(lake, tmp_path, part_bytes=20_000, root=str(vita[0]))
    assert not (tmp_path / STAGE / "export.json").exists()
    before, ran[:] = list(ran), []
    monkeypatch.setattr(exporting, "contexts", lambda *given: ran.append(given[2]) or real(*given))
    run(lake, tmp_path, part_bytes=20_000, root=str(vita[0]))
    assert not set(before) & set(ran)
    assert files(tmp_path) == files(vita[0])


def test_an_export_that_stands_is_left_alone(lake, vita, monkeypatch):
    place, made = vita
    stamps = {path: path.stat().st_mtime_ns for path in place.rglob("*")}
    monkeypatch.setattr(exporting, "finish", None)
    assert run(lake, place) == made
    assert {path: path.stat().st_mtime_ns for path in place.rglob("*")} == stamps


def test_an_export_of_another_plan_is_replaced_only_on_request(lake, vita, tmp_path):
    run(lake, tmp_path)
    with pytest.raises(Drift, match="per was sample, is context"):
        run(lake, tmp_path, per="context")
    made = run(lake, tmp_path, dialect="vita-audio", replace=True)
    names = {"records.jsonl", "left-out.jsonl", "config.yaml", "README.md", "export.json"}
    assert {path.name for path in (tmp_path / STAGE).iterdir()} == names
    made = run(lake, tmp_path, per="context", replace=True)
    assert made.per == "context"
    assert len(written(tmp_path)) == made.records
    (tmp_path / STAGE / "records.json").unlink()
    assert run(lake, tmp_path, per="context") == made
    assert (tmp_path / STAGE / "records.json").exists()


def test_stages_share_their_media(lake, tmp_path):
    run(lake, tmp_path, dialect="vita-audio")
    before = set(files(tmp_path))
    run(lake, tmp_path, dialect="vita-audio", stage="small/words")
    assert {path.split("/")[0] for path in set(files(tmp_path)) - before} == {"small"}


def test_a_stage_that_cannot_be_said_at_all_is_refused_with_the_reasons(lake, tmp_path):
    with pytest.raises(UserError, match=r"vita-1.5 can say no sample of stage small/words: answer-spoken 2"):
        run(lake, tmp_path, stage="small/words")
    assert not (tmp_path / "small/words/export.json").exists()


def test_what_is_not_known_is_said_with_what_is(lake, tmp_path):
    with pytest.raises(UnknownName, match="no format 'vita-2'"):
        run(lake, tmp_path, dialect="vita-2")
    with pytest.raises(UnknownName, match="Known: context, sample"):
        run(lake, tmp_path, per="corpus")
    with pytest.raises(UserError, match="is the lake itself"):
        run(lake, lake.url)
    with pytest.raises(UserError, match="packs contexts in its own loader"):
        run(lake, tmp_path, dialect="vita-audio", per="context")


def test_a_broken_byte_of_the_lake_is_found_and_not_exported(lake, tmp_path):
    broken = tmp_path / "lake"
    broken.mkdir()
    for path, data in files(Path(lake.url)).items():
        (broken / path).parent.mkdir(parents=True, exist_ok=True)
        (broken / path).write_bytes(data[:2000] + b"?" + data[2001:] if path.endswith(".tar") else data)
    with pytest.raises(Corrupt, match="is not what was written"):
        run(Lake(str(broken)), tmp_path / "out")


def test_long_vita_is_told_what_can_be_seen_and_read(lake, placed, tmp_path):
    made = run(lake, tmp_path, dialect="long-vita")
    records, left = (
        lines(tmp_path, "records.jsonl"),
        {row["key"]: row["reason"] for row in lines(tmp_path, "left-out.jsonl")},
    )
    sounding = {part.sample.key: part for part in placed if part.heard or part.sample.audios}
    assert left.keys() == sounding.keys()
    assert {left[key] for key, part in sounding.items() if part.sample.kind != "noise"} == {"unheard"}
    assert made.records == len(records) == len(placed) - len(left)
    said = "".join(message["content"] for record in records for message in record["messages"])
    assert said.count("<image>") == sum(len(record.get("images", [])) for record in records) > 1
    assert not (tmp_path / "audio").exists()


def test_models_are_exported_for_their_own_trainers():
    names = ("vita-1.0", "vita-1.5-small", "vita-audio", "ours")
    assert [dialect_of(name) for name in names] == ["vita-1.0", "vita-1.5", "vita-audio", "vita-1.5"]


def test_the_command_tells_what_it_wrote_and_how_to_train_on_it(lake, tmp_path, capsys):
    def run(*words):
        app(
            ["export", lake.url, str(tmp_path / "out"), "--stage", STAGE, "--workers", "1", *words],
            standalone_mode=False,
        )
        return capsys.readouterr().out

    out = run("--quiet")
    assert "looks: 1 left out, images-in-turn" in out
    readme = Path(out.strip().splitlines()[-1].removeprefix("how to train on it: "))
    assert "| CC0 |" in readme.read_text()
    assert json.loads(run("--json"))["placed"] == sum(one.placed for one in Stream(lake.url, STAGE).manifest.counts)
