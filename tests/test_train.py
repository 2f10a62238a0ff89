"""The lean trainer: it learns in every stage what that stage trains, and is killed and resumed on other ranks."""

import json
import math
import os
import signal
import socket
import sys
import time
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
from lakes import chats, clips, fill, pictures, plan, questions, recipe, recordings, tone, voice
from ranks import start

from tarsia.builders.documents import read_recipe
from tarsia.manifests.collate import Chats, Collated, Decoder
from tarsia.manifests.runs import audit_runs
from tarsia.manifests.stream import Stream
from tarsia.schemas.errors import UserError

torch = pytest.importorskip("torch", reason="pip install 'tarsia[train]'")
sys.path.insert(0, str(Path(__file__).parents[1] / "examples/train"))

from train import Model, main  # noqa: E402

BATCH, EPOCHS = 3, 3
CURRICULUM = {  # VITA-1.5's stages, and what each of them teaches
    "1.1": {"vision_adapter"},
    "1.2": {"vision_encoder", "vision_adapter", "llm"},
    "1.3": {"vision_encoder", "vision_adapter", "llm"},
    "2.1a": {"audio_encoder"},
    "2.1b": {"audio_adapter", "guide_tokens"},
    "2.2": {"vision_encoder", "vision_adapter", "audio_encoder", "audio_adapter", "llm", "state_head"},
    "3.1": {"codec"},
    "3.2": {"nar_decoder", "ar_decoder"},
}


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    """Contexts of text and small pictures."""
    folder = tmp_path_factory.mktemp("train")
    looks = ({"format": "llava"}, pictures(folder, [(60, 60), (64, 48)] * 4))
    filled = fill(folder, {"sums": questions(60, words=60), "looks": looks})
    modules = {"train": ["vision_adapter", "llm"], "take": {"qa": "100%"}}
    plan(filled, recipe({"all": modules, "eyes": {**modules, "train": ["vision_adapter"]}}, tokens=600, tiles=1))
    return filled


def contexts(lake):
    return Stream(lake.url, "small/all").manifest.contexts


def arguments(lake, out, *stages, **options):
    given = {"model": "small", "batch": BATCH, "every": 3, **options}
    flat = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    return [lake.url, "--out", str(out), *flat, "--stages", *stages]


def ranks(world, words):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    return start(world, port, words)


def finish(processes):
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * len(processes)


def steps(out):
    """What each rank did in each global batch; of one that came again after a kill, both times."""
    found = defaultdict(lambda: defaultdict(list))
    for path in sorted(out.glob("steps-*.jsonl")):
        for line in path.read_text().splitlines():
            one = json.loads(line)
            found[one["epoch"], one["begin"]][path.stem].append(one)
    return found


def losses(out):
    return [next(iter(step.values()))[-1]["loss"] for _, step in sorted(steps(out).items())]


@pytest.fixture(scope="module")
def whole(lake, tmp_path_factory):
    """A run that nobody disturbed, on one rank."""
    out = tmp_path_factory.mktemp("whole")
    finish(ranks(1, arguments(lake, out, "all", epochs=EPOCHS)))
    assert len(losses(out)) == EPOCHS * math.ceil(contexts(lake) / BATCH)
    return out


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)])
def test_killed_and_resumed_on_other_ranks_it_sees_what_it_would_have_seen(lake, whole, tmp_path, before, after):
    words = arguments(lake, tmp_path, "all", epochs=EPOCHS)
    processes = ranks(before, words)
    while len(steps(tmp_path)) < 9 and all(process.is_alive() for process in processes):
        time.sleep(0.002)
    for process in processes:
        os.kill(process.pid, signal.SIGKILL)
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [-signal.SIGKILL] * before
    killed = steps(tmp_path)
    stood = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert 0 < stood["number"] <= len(killed) < EPOCHS * math.ceil(contexts(lake) / BATCH)
    assert stood["stream"]["epoch"] > 0  # in the middle of an epoch that has an order of its own
    finish(ranks(after, words))
    expected = {place: step["steps-0"][0]["keys"] for place, step in steps(whole).items()}
    for attempt, world in ((killed, before), (resumed(tmp_path, killed), after)):
        for place, step in attempt.items():
            if len(step) == world:  # a rank may have been killed before it wrote its line
                assert [context for rank in sorted(step) for context in step[rank][0]["keys"]] == expected[place]
    assert {*killed, *resumed(tmp_path, killed)} == {*expected}
    assert all(len(step) == after for step in resumed(tmp_path, killed).values())
    assert losses(tmp_path) == pytest.approx(losses(whole), rel=0.02)  # the same steps, to rounding
    assert audit_runs(lake, [str(tmp_path / "run.jsonl")]).findings == ()


def resumed(out, killed):
    """The lines that were written after the kill."""
    found = {
        place: {rank: lines[len(killed.get(place, {}).get(rank, [])) :] for rank, lines in step.items()}
        for place, step in steps(out).items()
    }
    return {place: left for place, step in found.items() if (left := {rank: own for rank, own in step.items() if own})}


def test_an_audit_says_whether_the_run_was_handed_what_its_manifest_promised(lake, whole, tmp_path):
    result = audit_runs(lake, [str(whole / "run.jsonl")])
    assert (result.findings, result.runs[0].contexts) == ((), EPOCHS * contexts(lake))
    early = (whole / "run.jsonl").read_bytes().splitlines(keepends=True)[0]
    (tmp_path / "run.jsonl").write_bytes(early)
    assert len(audit_runs(lake, [str(tmp_path / "run.jsonl")]).findings) == 1


def test_a_finished_run_has_nothing_to_do_and_the_next_stage_begins_with_its_model(lake, whole, tmp_path):
    for file in whole.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    main(arguments(lake, tmp_path, "all", "eyes", epochs=EPOCHS))
    then, now = (torch.load(out / "checkpoint.pt", weights_only=True) for out in (whole, tmp_path))
    passes = (then["pass"], now["pass"], now["number"])
    assert passes == (("all", ""), ("eyes", ""), EPOCHS * math.ceil(contexts(lake) / BATCH))
    assert changed(then["model"], now["model"]) == {"vision_adapter"}
    with pytest.raises(UserError, match="holds a run in stage eyes"):
        main(arguments(lake, tmp_path, "all"))


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are counted where /proc lists them")
def test_a_run_that_ends_leaves_no_thread_of_its_process_group(lake, tmp_path):
    """One that is left aborts the process, now and then, as it ends."""
    main(arguments(lake, tmp_path, "eyes", batch=30))
    assert not [name for task in Path("/proc/self/task").iterdir() if "gloo" in (name := (task / "comm").read_text())]


def changed(before, after):
    """The modules of which any number is another."""
    return {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}


@pytest.fixture(scope="module")
def every(tmp_path_factory):
    """A lake of every modality; its contexts reset positions, its states are labels."""
    folder, monkeypatch = tmp_path_factory.mktemp("every"), pytest.MonkeyPatch()
    recordings(folder, [0.9, 1.7, 1.2])
    (folder / "LJ/wavs").mkdir(parents=True)
    for number, seconds in enumerate([0.9, 1.3]):
        wave = (9000 * np.sin(np.arange(round(seconds * 22_050)) / (8 + number))).astype(np.int16)
        soundfile.write(folder / f"LJ/wavs/L{number}.wav", wave, 22_050)
    (folder / "LJ/metadata.csv").write_text("L0|raw|The sea was calm.\nL1|raw|Two old men read.\n")
    corpora = {
        "sums": questions(12),
        "talk": ({"format": "llava"}, chats(6)),
        "looks": ({"format": "llava"}, pictures(folder, [(300, 300), (640, 480)])),
        "films": ({"format": "video", "kind": "caption"}, clips(folder, [1])),
        "speech": ({"format": "librispeech", "kind": "asr", "root": "LibriSpeech"}, None),
        "voices": ({"format": "ljspeech", "kind": "tts", "root": "LJ"}, None),
    }
    shipped = read_recipe("vita-1.5")
    assert set(CURRICULUM) == {name + step for name, stage in shipped.stages.items() for step in stage.steps or [""]}
    takes = {"3": {"tts": "100%"}, "2.1": {"asr": "100%"}, "1.1": {"caption": "100%"}, "1.2": {"caption": "100%"}}
    stages = {
        name: {
            "train": stage.train,
            "steps": {step: one.model_dump(mode="json") for step, one in stage.steps.items()},
            "form": stage.form,
            "guide": stage.guide,
            "pack": {"seconds": 20} if name in ("2.1", "3.1", "3.2") else True,
            "spoken": stage.spoken,
            "take": next((take for names, take in takes.items() if name.startswith(names)), {"qa": "100%"}),
        }
        for name, stage in shipped.stages.items()
    }
    words = {"take": [{"kind": "qa", "modality": "text", "amount": "100%"}]}
    stages |= {"text": words, "ahead": {**words, "train": ["mctp"]}, "lost": {**words, "train": ["memory"]}}
    page = recipe(stages, tokens=2600, tiles=4, states="labels", positions="reset")
    filled = fill(folder, corpora)
    voice(filled, page, tone(folder, monkeypatch))
    plan(filled, page, voices="tone")
    yield filled
    monkeypatch.undo()


@pytest.fixture(scope="module")
def curriculum(every, tmp_path_factory):
    """A run through all stages, of each its checkpoint; and the folder of the run."""
    out, done, kept = tmp_path_factory.mktemp("curriculum"), [], {}
    for stage in dict.fromkeys(name.rstrip("ab") for name in CURRICULUM):
        done.append(stage)
        main(arguments(every, out, *done, batch=4, epochs=EPOCHS))
        kept[stage] = torch.load(out / "checkpoint.pt", weights_only=True)["model"]
    return out, kept


def test_each_stage_teaches_the_modules_that_it_trains_and_no_others(every, curriculum):
    out, kept = curriculum
    torch.manual_seed(0)
    before = Model().state_dict()
    for stage, after in kept.items():
        assert all(one.isfinite().all() for one in after.values())
        assert changed(before, after) == {
            module for name, modules in CURRICULUM.items() if name.startswith(stage) for module in modules
        }
        before = after
    for log in ("run.jsonl", "run-a.jsonl", "run-b.jsonl"):
        assert audit_runs(every, [str(out / log)]).findings == ()


@pytest.mark.parametrize("name", CURRICULUM)
def test_the_loss_goes_down(curriculum, name):
    """Mean losses of one epoch and of another are of the same contexts."""
    lines = [json.loads(line) for line in (curriculum[0] / "steps-0.jsonl").read_text().splitlines()]
    epochs = [[line for line in lines if line["pass"] == name and line["epoch"] == epoch] for epoch in range(EPOCHS)]
    assert len({tuple(sorted(key for line in epoch for keys in line["keys"] for key in keys)) for epoch in epochs}) == 1
    learnt = [sum(line["learnt"] for line in epoch) for epoch in epochs]
    assert learnt[0] > 0
    assert learnt == learnt[:1] * EPOCHS
    means = [sum(line["loss"] * line["learnt"] for line in epoch) / learnt[0] for epoch in epochs]
    assert means == sorted(means, reverse=True)
    assert means[-1] < means[0]


def test_heads_of_words_further_on_learn_alone(every, tmp_path):
    main(arguments(every, tmp_path, "ahead", epochs=EPOCHS))
    torch.manual_seed(0)
    kept = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert changed(Model().state_dict(), kept["model"]) == {"mctp"}
    assert kept["losses"][EPOCHS - 1][0] < kept["losses"][0][0]


@pytest.mark.parametrize("name", ["vita-1.5", "vita-1.5-small", "vita-1.0", "vita-audio"])
def test_the_model_has_every_module_that_a_shipped_recipe_names(name):
    page = read_recipe(name)
    stages = [one for stage in page.stages.values() for one in (stage, *stage.steps.values())]
    for names in ([*page.modules], *(stage.train for stage in stages)):
        assert Model().learn(names)


def test_a_module_that_the_model_lacks_is_named(every, tmp_path):
    with pytest.raises(UserError, match="trains memory; this model has vision_encoder, "):
        main(arguments(every, tmp_path, "lost"))


def test_where_positions_begin_anew_a_sample_sees_nothing_of_the_others(every):
    stream = Stream(every.url, "small/text", batch=2)
    torch.manual_seed(0)
    model = Model()
    batch = next(Decoder(stream.manifest.context, Chats())(stream)).map(torch.from_numpy)
    reset = stream.manifest.context
    chat = reset.model_copy(update={"positions": "chat"})
    together, count = model(batch, reset)
    ends = batch["cu_seqlens"].tolist()
    assert len(ends) > 4
    alone = [model(piece(batch, begin, end), chat) for begin, end in pairwise(ends)]
    assert (count, together.item()) == (
        sum(own for _, own in alone),
        pytest.approx(sum(one.item() for one, _ in alone)),
    )
    assert model(batch, chat)[0].item() != pytest.approx(together.item(), rel=1e-6)


def piece(batch, begin, end):
    """A segment of a batch of text as a batch of its own."""
    names = ("ids", "labels", "positions", "states")
    arrays = {name: batch[name].flatten()[None, begin:end] for name in names}
    return Collated({**batch.arrays, **arrays}, (0,), ((),), (), {}, batch.handed)


def test_the_wrong_length_of_speech_stops_the_run(every):
    stream = Stream(every.url, "small/2.2", batch=100)
    batch = next(Decoder(stream.manifest.context, Chats())(stream)).map(torch.from_numpy)
    assert len(batch["features"]) > 1
    batch["features_lens"][0] += 100
    with pytest.raises(AssertionError, match="not as long as it was planned"):
        Model()(batch, stream.manifest.context)
