"""Speech from servers: what they do wrong never enters a sidecar, and what they did not do is done by the next run."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack
from functools import partial
from itertools import count, product
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import soundfile
from lakes import verdicts
from sovits_server import FAULTS, Play, Server, expected, speech

from tarsia.builders.calibration import CALIBRATION
from tarsia.builders.documents import read_catalog, read_recipe, read_voices
from tarsia.builders.endpoints import Unwell
from tarsia.builders.evidence import Calibration
from tarsia.builders.fleet import seed_of
from tarsia.builders.lake import Lake
from tarsia.builders.shards import members
from tarsia.builders.tables import get_table
from tarsia.pipelines import cli, show
from tarsia.pipelines import speak as speaking
from tarsia.pipelines.ingest import ingest
from tarsia.pipelines.pool import open_pool
from tarsia.pipelines.speak import Speech, speak
from tarsia.schemas.errors import BadVoices

COLOURS = ("red", "green", "yellow", "purple", "silver", "brown", "orange", "black", "white", "golden")
THINGS = ("bicycle", "teapot", "umbrella", "violin", "lantern", "suitcase", "curtain", "ladder", "basket", "pillow",
          "candle", "mirror", "carpet", "bottle", "hammer", "blanket")  # fmt: skip
QUESTIONS = [f"What is the {colour} {thing} doing on the roof?" for colour, thing in product(COLOURS, THINGS)]
OPTIONS = "{model: v2, ref_audio_path: /r/anna.wav, prompt_text: Good morning., prompt_lang: en}"
VOICE = f"voices:\n  anna: {{engine: gptsovits, language: en, options: {OPTIONS}}}\n"
HALF = len(QUESTIONS) // 2


@pytest.fixture
def town(tmp_path):
    """A corpus of 160 English questions, and a recipe that hears half."""
    records = [
        {"id": str(n), "instruction": question, "output": "Nothing at all."} for n, question in enumerate(QUESTIONS)
    ]
    (tmp_path / "roofs.json").write_text(json.dumps(records))
    (tmp_path / "catalog.yaml").write_text(
        "corpora:\n  roofs: {format: alpaca, kind: qa, language: en, licence: CC0, root: ., files: '*.json'}\n"
    )
    (tmp_path / "half.yaml").write_text(
        "model: half\nseed: 3\ncontext: {tokens: 600}\nstages:\n"
        "  tiny: {title: tiny, train: [llm], spoken: 50%, take: {qa: 10%}}\n"
        "  whole: {title: whole, train: [llm], spoken: 50%, take: {qa: 100%}}\n"
    )
    (tmp_path / "all.yaml").write_text(
        "model: all\nseed: 3\ncontext: {tokens: 600}\nstages:\n"
        "  all: {title: all, train: [llm], spoken: 100%, take: {qa: 100%}}\n"
    )
    return tmp_path


@pytest.fixture
def servers():
    with Server() as one, Server() as two:
        yield one, two


def fill(town, name="lake"):
    lake = Lake(str(town / name))
    with open_pool(1) as pool:
        ingest(read_catalog(town / "catalog.yaml"), lake, pool, quiet=True)
    return lake


def pool_of(town, *servers):
    urls = json.dumps([server.url for server in servers])
    (town / "anna.yaml").write_text(f"{VOICE}endpoints: {{gptsovits: {urls}}}\n")
    return read_voices(str(town / "anna.yaml"))


def say(town, lake, *servers, stages=("whole",)):
    voices = pool_of(town, *servers)
    with open_pool(1) as workers:
        recipe = read_recipe(str(town / "half.yaml"))
        speech = speak(recipe, lake, voices, workers, only=stages, quiet=True, pause=lambda _: 0.01)
        return list(speech.questions)


def requests(servers):
    """Those that are none of the calibration's."""
    return sum(
        body.get("text", body.get("input")) not in CALIBRATION["en"] for server in servers for body in server.asked
    )


def heard(lake):
    """Every clip of the sidecars, and its sound."""
    for state in lake.snapshot().speech:
        for shard in state.shards:
            for row in get_table(lake.store, shard.index).to_pylist():
                found = dict(members(lake.store.read_range(shard.tar.path, row["offset"], row["length"]), row["key"]))
                for clip in row["clips"]:
                    yield clip, soundfile.read(io.BytesIO(found[clip["member"]]), dtype="int16")[0]


def sidecars(lake):
    return sorted(
        (stored.path, stored.digest)
        for state in lake.snapshot().speech
        for shard in state.shards
        for stored in shard.objects
    )


def gives_up(servers, limit):
    """A rule: all servers leave when so many clips were asked for."""

    def rule(_body, _number):
        if requests(servers) >= limit:
            for server in servers:
                server.rule = lambda body, number: Play("crash")
                Thread(target=server.stop).start()
            return Play("crash")
        return Play()

    return rule


def test_servers_speak_half_of_the_questions_and_a_second_run_asks_for_nothing(town, servers):
    lake = fill(town)
    (report,) = say(town, lake, *servers)
    assert (report.selected, report.asked, report.spoken) == (len(QUESTIONS), HALF, HALF)
    assert (report.refused, report.pending) == ({}, {})
    assert requests(servers) == HALF
    assert [server.most_at_once for server in servers] == [1, 1]
    before = lake.snapshot()
    assert say(town, lake, *servers) == [report]
    assert requests(servers) == HALF
    assert lake.snapshot() == before


def test_one_answer_in_ten_is_wrong_in_every_way_and_none_of_them_is_kept(town, servers):
    """Answers are wrong by turns, in all the ways that the test server knows, the calibration's too."""
    wide(town)
    turns, played = count(), Counter()

    def rule(_body, _number):
        turn = next(turns)
        kind = FAULTS[turn // 10 % len(FAULTS)] if turn % 10 == 3 else "speech"
        played[kind] += 1
        return Play(kind)

    for server in servers:
        server.rule = rule
    lake = fill(town)
    (report,) = say(town, lake, *servers)
    assert played.keys() == {"speech", *FAULTS}
    assert (report.asked, report.spoken, report.pending) == (WIDE // 2, WIDE // 2, {})
    assert set(report.refused) <= {"no-words"}  # the one fault that is the text's, as far as anyone can know
    clips = list(heard(lake))
    assert len(clips) == WIDE // 2
    for clip, samples in clips:
        text = clip["spoken"]
        true = (speech(text, expected(text), 32_000, seed_of(clip["clip"], draw)) for draw in range(9))
        assert any(np.array_equal(samples, one) for one in true), text
    assert max(row["seeds"] for row in verdicts(lake, "anna").values()) > 1


WIDE = 640


def wide(town):
    """Four times the questions."""
    places = ("on the roof", "in the hall", "at the pier", "by the door")
    texts = [f"What is the {c} {t} doing {p}?" for c, t, p in product(COLOURS, THINGS, places)]
    records = [{"id": str(n), "instruction": text, "output": "Nothing."} for n, text in enumerate(texts)]
    (town / "roofs.json").write_text(json.dumps(records))


def test_a_server_that_says_the_same_to_everything_is_found_out_before_it_speaks(town, servers):
    for server in servers:
        server.rule = lambda _, number: Play("same bytes")
    lake = fill(town)
    with pytest.raises(Unwell, match="the very samples of another text"):
        say(town, lake, servers[0])
    assert (requests(servers), verdicts(lake, "anna")) == (0, {})


def test_a_small_stage_is_enough_for_any_voice(town, servers):
    (report,) = say(town, fill(town), *servers, stages=("tiny",))
    assert (report.asked, report.spoken, requests(servers)) == (8, 8, 8)


def test_two_workers_have_endpoints_of_their_own_and_leave_the_same_sidecars(town):
    wide(town)
    here, lake = fill(town, "here"), fill(town)
    with ExitStack() as stack:
        servers = [stack.enter_context(Server()) for _ in range(8)]
        voices = pool_of(town, *servers)
        recipe = read_recipe(str(town / "all.yaml"))
        for where, workers in ((here, 1), (lake, 2)):
            with open_pool(workers, patience=0.0) as pool:
                (report,) = speak(recipe, where, voices, pool, quiet=True).questions
            assert (report.spoken, report.pending) == (WIDE, {})
        assert [server.most_at_once for server in servers] == [1] * 8
    assert sidecars(lake) == sidecars(here)
    assert len(list(lake.store.list("verdicts/anna"))) == 2  # each worker sealed its own


def test_a_worker_that_is_killed_loses_what_it_had_not_sealed_and_the_next_run_asks_for_that_alone(town):
    wide(town)
    lake = fill(town)
    with ExitStack() as stack:
        servers = [stack.enter_context(Server()) for _ in range(8)]
        voices = pool_of(town, *servers)
        words = ["speak", lake.url, "--recipe", town / "all.yaml", "--voices", town / "anna.yaml", "--workers", "2"]
        command = subprocess.Popen([TARSIA, *map(str, words), "--quiet"], stderr=subprocess.PIPE, text=True)
        until = time.monotonic() + 60
        while requests(servers) < 400 and time.monotonic() < until:
            time.sleep(0.02)
        os.kill(children(command.pid)[-1], signal.SIGKILL)
        _, said = command.communicate(timeout=60)
        assert "a worker process died" in said
        assert command.returncode != 0
        sealed, before = len(verdicts(lake, "anna")), requests(servers)
        with open_pool(1) as pool:
            (report,) = speak(read_recipe(str(town / "all.yaml")), lake, voices, pool, quiet=True).questions
    assert (report.spoken, requests(servers) - before) == (WIDE, WIDE - sealed)


TARSIA = str(Path(sys.executable).with_name("tarsia"))


def children(parent):
    """The processes that a process has spawned to work for it."""
    tasks = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [int(one) for one in tasks if b"spawn_main" in Path(f"/proc/{one}/cmdline").read_bytes()]


@pytest.mark.ray
def test_ray_speaks_the_same_sidecars(town, servers, ray_cluster):
    here, lake = fill(town, "here"), fill(town)
    say(town, here, *servers)
    with open_pool(ray=ray_cluster) as workers:
        recipe = read_recipe(str(town / "half.yaml"))
        (report,) = speak(recipe, lake, pool_of(town, *servers), workers, only=("whole",), quiet=True).questions
    assert (report.spoken, report.pending) == (HALF, {})
    assert sidecars(lake) == sidecars(here)


def test_a_reference_clip_that_is_here_is_looked_at_before_anyone_is_asked(town, servers):
    clip = town / "anna.wav"
    (town / "anna.yaml").write_text(
        f"{VOICE.replace('/r/anna.wav', str(clip))}endpoints: {{gptsovits: ['{servers[0].url}']}}\n"
    )
    lake, recipe, voices = fill(town), read_recipe(str(town / "half.yaml")), read_voices(str(town / "anna.yaml"))
    soundfile.write(clip, speech("Good morning.", 1.7, 16_000), 16_000)
    with open_pool(1) as workers, pytest.raises(BadVoices, match=r"anna.wav: 2.00 s; the server takes 3 to 10 s"):
        speak(recipe, lake, voices, workers, quiet=True)
    assert sum(len(server.asked) for server in servers) == 0
    soundfile.write(clip, speech("Good morning.", 4.0, 16_000), 16_000)
    with open_pool(1) as workers:
        (report, _) = speak(recipe, lake, voices, workers, quiet=True).questions
    assert report.spoken == 8


def test_reference_clips_that_are_not_here_are_said_to_be_unchecked(town, servers, capsys):
    lake, voices = fill(town), pool_of(town, *servers)
    with open_pool(1) as workers:
        speak(read_recipe(str(town / "half.yaml")), lake, voices, workers, only=("tiny",))
    assert "the reference clips of anna are not here and were not checked" in capsys.readouterr().err


def test_a_voice_is_measured_once_and_kept(town, servers):
    lake = fill(town)
    say(town, lake, *servers)
    (entry,) = lake.store.list("voices/anna")
    written = lake.store.read(entry.path)
    calibration = Calibration.model_validate_json(written)
    assert (calibration.clips, calibration.rate) == (48, 32_000)
    for path in [entry.path for entry in lake.store.list("verdicts/anna")]:
        lake.store.delete(path)
    for server in servers:
        server.rule = lambda _, number: Play("half" if number % 2 else "speech")
    say(town, lake, *servers)
    assert lake.store.read(entry.path) == written


def test_one_dead_endpoint_is_done_without(town, servers):
    servers[1].stop()
    lake = fill(town)
    (report,) = say(town, lake, *servers)
    assert (report.spoken, report.pending, requests(servers[:1])) == (HALF, {}, HALF)
    servers[1].start()


def test_when_all_servers_leave_what_was_made_is_kept_and_the_next_run_completes_it(town, servers):
    undisturbed, lake = fill(town, "undisturbed"), fill(town)
    say(town, undisturbed, *servers)
    for server in servers:
        server.asked.clear()
        server.rule = gives_up(servers, 70)
    with pytest.raises(Unwell, match="run again to go on"):
        say(town, lake, *servers)
    made = len(verdicts(lake, "anna"))
    assert 60 <= made < 72
    assert len(list(heard(lake))) == made
    for server in servers:
        server.stop()
        server.rule = lambda body, number: Play()
        server.asked.clear()
        server.start()
    (report,) = say(town, lake, *servers)
    assert (report.spoken, report.pending) == (HALF, {})
    assert requests(servers) == HALF - made
    assert sidecars(lake) == sidecars(undisturbed)


def test_a_job_waits_for_servers_that_have_spoken_and_are_all_away(town, servers, capsys):
    undisturbed, lake = fill(town, "undisturbed"), fill(town)
    say(town, undisturbed, *servers)
    for server in servers:
        server.asked.clear()
        server.rule = gives_up(servers, 70)

    def come_back():
        while not all(server._leave.is_set() for server in servers):
            time.sleep(0.01)
        time.sleep(0.5)
        for server in servers:
            server.stop()
            server.rule = lambda body, number: Play()
            server.start()

    back = Thread(target=come_back)
    back.start()
    with open_pool(1) as workers:
        recipe, voices = read_recipe(str(town / "half.yaml")), pool_of(town, *servers)
        report = speak(recipe, lake, voices, workers, only=["whole"], wait=60, pause=lambda _: 0.01).questions[0]
    back.join()
    assert (report.spoken, report.pending) == (HALF, {})
    assert sidecars(lake) == sidecars(undisturbed)
    said = capsys.readouterr().err
    assert said.count("no endpoint speaks any more") == said.count("waiting for them for 1 minutes") == 1


def test_a_job_waits_no_longer_than_it_was_told_and_not_at_all_for_servers_that_never_spoke(town, servers):
    lake = fill(town)
    for server in servers:
        server.rule = gives_up(servers, 70)
    recipe, voices, pause = read_recipe(str(town / "half.yaml")), pool_of(town, *servers), lambda _: 0.01
    for wait, least in ((1.0, 1.0), (600.0, 0.0)):
        began = time.monotonic()
        with open_pool(1) as workers, pytest.raises(Unwell, match="run again to go on"):
            speak(recipe, lake, voices, workers, only=["whole"], quiet=True, wait=wait, pause=pause)
        assert least <= time.monotonic() - began < 60
    for server in servers:
        server.start()


def test_questions_that_servers_fail_are_pending_with_the_reason(town, servers):
    stubborn = QUESTIONS[::8]
    for server in servers:
        server.rule = lambda body, _: Play("rejected" if body["text"] in stubborn else "speech")
    lake = fill(town)
    (report,) = say(town, lake, *servers)
    waiting = report.pending["rejected"]
    assert report.pending == {"rejected": waiting}
    assert report.spoken == HALF - waiting > 0
    assert show.spoken(Speech(questions=(report,))).endswith(
        f"{waiting} questions are pending, their servers failed (rejected {waiting}); run again to go on"
    )
    for server in servers:
        server.rule = lambda body, number: Play()
    (report,) = say(town, lake, *servers)
    assert (report.spoken, report.pending) == (HALF, {})
    other = fill(town, "undisturbed")
    say(town, other, *servers)
    assert sidecars(lake) == sidecars(other)


def test_the_command_ends_with_3_when_no_server_is_there(town, servers, monkeypatch, capsys):
    lake = fill(town)
    pool_of(town, *servers)
    for server in servers:
        server.stop()
    words = ["speak", lake.url, "--recipe", town / "half.yaml", "--voices", town / "anna.yaml", "--quiet"]
    monkeypatch.setattr(sys, "argv", ["tarsia", *map(str, words)])
    monkeypatch.setattr(speaking, "speak", partial(speak, pause=lambda _: 0.01))  # else it waits for a minute
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 3
    assert "no endpoint speaks any more; what was made is kept, run again to go on" in capsys.readouterr().err
    for server in servers:
        server.start()


def test_pools_that_cannot_be_driven_are_said(town, servers):
    lake = fill(town)
    (town / "lost.yaml").write_text(VOICE)
    where = "engine 'gptsovits' is a server, and the pool does not say where"
    with open_pool(1) as workers, pytest.raises(BadVoices, match=where):
        speak(read_recipe(str(town / "half.yaml")), lake, read_voices(str(town / "lost.yaml")), workers, quiet=True)
    (town / "typo.yaml").write_text(f"{VOICE}endpoints: {{gptsovit: ['http://h:1']}}\n")
    with pytest.raises(BadVoices, match="no voice of this pool has the engine 'gptsovit'"):
        read_voices(str(town / "typo.yaml"))
    assert requests(servers) == 0


def test_a_server_that_speaks_as_openai_does_is_driven_the_same_way(town, servers):
    lake = fill(town)
    urls = json.dumps([f"{server.url}/v1" for server in servers])
    voice = "voices:\n  nora: {engine: openai, language: en, options: {model: kokoro, voice: bf_emma}}\n"
    (town / "nora.yaml").write_text(f"{voice}endpoints: {{openai: {urls}}}\n")
    with open_pool(1) as workers:
        recipe = read_recipe(str(town / "half.yaml"))
        report = speak(
            recipe, lake, read_voices(str(town / "nora.yaml")), workers, only=("whole",), quiet=True
        ).questions[0]
    assert (report.spoken, report.pending, requests(servers)) == (HALF, {}, HALF)
