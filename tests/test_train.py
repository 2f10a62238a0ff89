"""The lean trainer: killed and resumed on other ranks, audited, and teaching nothing but what a stage trains."""

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

from tarsia.manifests.collate import Chats, Collated, Decoder
from tarsia.manifests.runs import audit_runs
from tarsia.manifests.stream import Stream
from tarsia.schemas.errors import UserError

torch = pytest.importorskip("torch", reason="pip install 'tarsia[train]'")
sys.path.insert(0, str(Path(__file__).parents[1] / "examples/train"))

from model import Model  # noqa: E402
from train import main  # noqa: E402

BATCH, EPOCHS = 3, 3


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
    given = {"model": "small", "batch": BATCH, "every": 3, "threads": 1, **options}
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
    return out


def test_the_loss_goes_down(lake, whole):
    found = losses(whole)
    assert len(found) == EPOCHS * math.ceil(contexts(lake) / BATCH)
    quarter = len(found) // 4
    assert sum(found[-quarter:]) < 0.9 * sum(found[:quarter])  # 7.0 of 8.2


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
    assert (then["pass"], now["pass"], now["number"]) == ("all", "eyes", EPOCHS * math.ceil(contexts(lake) / BATCH))
    assert changed(then["model"], now["model"]) == {"vision_adapter"}
    with pytest.raises(UserError, match="stands in stage eyes"):
        main(arguments(lake, tmp_path, "all"))


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
    vision, audio = ["vision_encoder", "vision_adapter"], ["audio_encoder", "audio_adapter"]
    both = {"qa": "100%", "caption": "100%"}
    stages = {
        "text": {"train": ["llm"], "take": [{"kind": "qa", "modality": "text", "amount": "100%"}]},
        "sft": {"train": [*vision, *audio, "llm", "state_head"], "take": both, "spoken": "50%"},
        "asr": {"train": ["audio_encoder"], "take": {"asr": "100%"}, "pack": {"seconds": 20}, "form": "ctc"},
        "codec": {"train": ["codec"], "take": {"tts": "100%"}, "pack": False, "form": "waves"},
        "decoders": {"train": ["nar_decoder", "ar_decoder"], "take": {"tts": "100%"}, "pack": False, "form": "pairs"},
        "lost": {"train": ["memory"], "take": {"asr": "100%"}, "pack": False},
    }  # fmt: skip
    page = recipe(stages, tokens=2600, tiles=4, states="labels", positions="reset")
    filled = fill(folder, corpora)
    voice(filled, page, tone(folder, monkeypatch))
    plan(filled, page, voices="tone")
    yield filled
    monkeypatch.undo()


def test_each_stage_teaches_the_modules_that_it_trains_and_no_others(every, tmp_path):
    torch.manual_seed(0)
    before = {name: one.clone() for name, one in Model().state_dict().items()}
    done = []
    for stage, modules in {
        "sft": {"vision_encoder", "vision_adapter", "audio_encoder", "audio_adapter", "llm", "state_head"},
        "asr": {"audio_encoder"},
        "codec": {"codec"},
        "decoders": {"nar_decoder", "ar_decoder"},
    }.items():
        done.append(stage)
        main(arguments(every, tmp_path, *done, batch=4))
        after = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["model"]
        assert all(one.isfinite().all() for one in after.values())
        assert changed(before, after) == modules
        before = after
    assert audit_runs(every, [str(tmp_path / "run.jsonl")]).findings == ()
    with pytest.raises(UserError, match="trains memory; this model has vision_encoder, "):
        main(arguments(every, tmp_path / "lost", "lost"))


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
    stream = Stream(every.url, "small/sft", batch=100)
    batch = next(Decoder(stream.manifest.context, Chats())(stream)).map(torch.from_numpy)
    assert len(batch["features"]) > 1
    batch["features_lens"][0] += 100
    with pytest.raises(AssertionError, match="not as long as it was planned"):
        Model()(batch, stream.manifest.context)
