"""`tarsia export`: a planned stage as files that VITA's and VITA-Audio's own code trains on.

    DEST/<model>/<stage>/records.json      one record a sample (or a context), in training order
    DEST/<model>/<stage>/left-out.jsonl    samples that the trainer's form cannot say, each with its reason
    DEST/<model>/<stage>/config.py         what leads the trainer there; .yaml for VITA-Audio
    DEST/<model>/<stage>/README.md         what it is, of which corpora under which licences, how to train on it
    DEST/<model>/<stage>/export.json       written last: all of the above, for one manifest
    DEST/images  DEST/videos  DEST/audio   media by their content, shared by all stages that are exported there
    DEST/.unfinished/…                     parts of the records while they are made

A task writes the records of a run of contexts, cut like the tars of `tarsia pack`, and the media that are not there
yet. Its record stands in the export, never in the lake, which is only read. The parts are joined in the order of the
contexts, so the bytes are the same whoever wrote them.
"""

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import orjson
from blake3 import blake3
from pydantic import ValidationError

from tarsia.builders.lake import Lake
from tarsia.builders.storage import Store, open_store
from tarsia.builders.tables import get_table
from tarsia.manifests.export import DIALECTS, Dialect, Make, Told, contexts, dialect_of, tell
from tarsia.manifests.stream import load_manifest, manifest_digest
from tarsia.pipelines.pack import runs
from tarsia.pipelines.pool import Pool, finish
from tarsia.pipelines.progress import Progress
from tarsia.schemas.errors import Corrupt, Drift, NotThere, UnknownName, UserError
from tarsia.schemas.identity import canonical, digest, digest_of
from tarsia.schemas.manifest import Manifest
from tarsia.schemas.model import Model
from tarsia.schemas.sample import Kind
from tarsia.schemas.shard import Stored

VERSION = 1  # counts changes of what is written
PART_BYTES = 256 << 20  # of media and text that one task reads
PER = ("sample", "context")
NAMES = ("records.json", "records.jsonl", "config.py", "config.yaml")  # of which a dialect has two
WRITERS = 8  # threads of a task that write media
PIECE = 1 << 20


class Exported(Model):
    """What was written of one corpus, and how many samples could not be said, by reason."""

    corpus: str
    kind: Kind
    licence: str
    samples: int
    questions: int
    heard: int  # questions, and answers of text-to-speech, that voices made
    left_out: dict[str, int] = {}


class Export(Model):
    """A stage as it stands in an export. Written last: its presence means complete."""

    version: int = VERSION
    dialect: str
    per: str  # sample | context
    stage: str  # model/stage
    manifest: str  # digest of the manifest that it was made from
    root: str  # where the trainer finds the export
    records: int
    placed: int  # samples of the stage, in records or left out
    corpora: tuple[Exported, ...]
    files: tuple[Stored, ...]

    @property
    def left_out(self) -> int:
        """Samples that are in no record."""
        return sum(sum(one.left_out.values()) for one in self.corpora)


@dataclass(frozen=True)
class ExportPart:
    """Writes the records of contexts `first` to `last` - 1 of a stage, and their media."""

    source: str
    stage: str
    manifest: str  # its digest
    dialect: str
    per: str
    root: str
    first: int
    last: int
    lake: str  # the export, where the record is kept
    record: str

    def run(self) -> Any:
        """Counts by corpus and, of samples that are left out, by reason."""
        dialect, store, lake = DIALECTS[self.dialect], open_store(self.lake), Lake(self.source)
        manifest = load_manifest(lake.url, self.stage)
        if manifest_digest(manifest) != self.manifest:
            raise Drift(f"{lake.url}: stage {self.stage} was planned anew while it was exported; export it again")
        figures = dict[tuple[str, str], Counter[str]]()
        count, between = 0, dialect.brackets[1]
        with store.spool() as said, store.spool() as left, _writing(store) as media:
            for number, samples in contexts(lake.store, manifest, self.first, self.last):
                tellable = list[Told]()
                for part in samples:
                    mine = figures.setdefault((part.place.group.corpus, part.place.group.kind), Counter())
                    told = tell(part, manifest.context, dialect)
                    if reason := dialect.refusal(told):
                        mine[f"-{reason}"] += 1
                        row = {"context": number, "slot": part.slot, "key": told.key, "corpus": told.corpus}
                        left.write(canonical({**row, "reason": reason}) + b"\n")
                        continue
                    mine.update(samples=1, questions=part.place.questions, heard=len(part.heard))
                    tellable.append(told)
                    for path, make in told.media.items():
                        media.put(path, make)
                for record in self._records(dialect, tellable):
                    said.write((between if count else b"") + orjson.dumps(record))
                    count += 1
            for file, name in ((said, "records"), (left, "left-out")):
                store.publish(file, f"{self.record.removesuffix('.json')}.{name}")
        rows = [[*group, dict(sorted(figures[group].items()))] for group in sorted(figures)]
        return {"records": count, "figures": rows}

    def _records(self, dialect: Dialect, samples: Sequence[Told]) -> list[Any]:
        if self.per == "context" and dialect.together:
            return dialect.together(samples) if samples else []
        return [dialect.record(told, self.root) for told in samples]


class _Writer:
    """Media on their way to a store: a few at a time, each once."""

    def __init__(self, store: Store, threads: ThreadPoolExecutor) -> None:
        self._store, self._threads = store, threads
        self._known = set[str]()
        self._coming = deque[Future[None]]()

    def put(self, path: str, make: Make) -> None:
        """Writes what is not there; waits when too many are on their way."""
        if path in self._known:
            return
        self._known.add(path)
        self._coming.append(self._threads.submit(self._write, path, make))
        while len(self._coming) > 4 * WRITERS:
            self._coming.popleft().result()

    def _write(self, path: str, make: Make) -> None:
        if self._store.entry(path) is None:
            self._store.replace(path, make())

    def finish(self) -> None:
        """Returns when all are there; raises what went wrong with one."""
        while self._coming:
            self._coming.popleft().result()


@contextmanager
def _writing(store: Store) -> Iterator[_Writer]:
    threads = ThreadPoolExecutor(WRITERS, "tarsia-export")
    try:
        writer = _Writer(store, threads)
        yield writer
        writer.finish()
    finally:
        threads.shutdown(cancel_futures=True)


def export(
    lake: Lake,
    stage: str,
    place: str,
    pool: Pool,
    *,
    dialect: str | None = None,
    per: str = "sample",
    root: str | None = None,
    replace: bool = False,
    part_bytes: int = PART_BYTES,
    quiet: bool = False,
) -> Export:
    """Writes a stage (`model/stage`) to a place. What stands there and is the same is left alone.

    `dialect`: what the trainer of the stage's model reads, if not said. `root`: what the place is called where the
    trainer runs. `Drift` where another export of the stage stands, and `replace` is not set; `UserError` where the
    dialect can say no sample of the stage.
    """
    manifest, store = load_manifest(lake.url, stage), open_store(place)
    if store.url == lake.url:
        raise UserError(f"{lake.url} is the lake itself; export into a place of its own")
    dialect = dialect or dialect_of(manifest.model)
    if dialect not in DIALECTS:
        raise UnknownName("format", dialect, DIALECTS)
    if per not in PER:
        raise UnknownName("record of a", per, PER, "--per")
    form = DIALECTS[dialect]
    if per == "context" and not form.together:
        raise UserError(f"{dialect} packs contexts in its own loader; export one record a sample")
    asked = {
        "dialect": dialect,
        "per": per,
        "stage": f"{manifest.model}/{manifest.name}",
        "manifest": manifest_digest(manifest),
        "root": (root or store.url).rstrip("/"),
    }
    if standing := _standing(store, asked, replace=replace):
        return standing
    tasks = _tasks(lake, store, manifest, asked, part_bytes)
    parts = finish(tasks, pool, Progress("export", "parts", quiet=quiet))
    made = _joined(store, lake, manifest, asked, form, tasks, parts)
    store.replace(f"{made.stage}/export.json", canonical(made.model_dump(mode="json")))
    past = {f"{made.stage}/{name}" for name in NAMES} - {stored.path for stored in made.files}
    for path in (*sorted(past), *[entry.path for entry in store.list(f".unfinished/{made.stage}")]):
        store.delete(path)
    return made


def _standing(store: Store, asked: dict[str, str], *, replace: bool) -> Export | None:
    """The export that stands there, if it is the one that is asked for and all its files are there."""
    where = f"{asked['stage']}/export.json"
    try:
        found = Export.model_validate_json(store.read(where))
    except NotThere:
        return None
    except ValidationError as error:
        if replace:
            return None
        raise Corrupt(f"{store.url}/{where} cannot be read: {error}; to write it anew: --replace") from None
    differ = [name for name, value in {**asked, "version": VERSION}.items() if getattr(found, name) != value]
    if not differ:
        return found if all(store.entry(stored.path) for stored in found.files) else None
    if not replace:
        said = "; ".join(f"{name} was {getattr(found, name)}, is {asked.get(name, VERSION)}" for name in differ)
        raise Drift(f"{store.url}/{where}: another export stands here: {said}; to write it anew: --replace")
    return None


def _tasks(lake: Lake, store: Store, manifest: Manifest, asked: dict[str, str], part_bytes: int) -> list[ExportPart]:
    found = get_table(lake.store, manifest.tables["contexts"], ("first", "samples"))
    samples = get_table(lake.store, manifest.tables["samples"], ("length", "speech_length"))
    begins, sizes = found["first"].to_numpy(), found["samples"].to_numpy()
    read = samples["length"].to_numpy() + samples["speech_length"].fill_null(0).to_numpy()
    until = np.concatenate([[0], np.cumsum(read, dtype=np.int64)])
    folder = f".unfinished/{asked['stage']}/{digest_of([VERSION, asked])[:16]}"
    return [
        ExportPart(**asked, source=lake.url, first=first, last=last, lake=store.url,
                   record=f"{folder}/{first:08d}-{last:08d}.json")
        for first, last in runs((until[begins + sizes] - until[begins]).tolist(), part_bytes)
    ]  # fmt: skip


def _joined(
    store: Store, lake: Lake, manifest: Manifest, asked: dict[str, str], form: Dialect,
    tasks: Sequence[ExportPart], parts: Sequence[Any],
) -> Export:  # fmt: skip
    """The files of an export but its last, made of its parts."""
    figures = dict[tuple[str, Kind], Counter[str]]()
    for part in parts:
        for corpus, kind, counts in part["figures"]:
            figures.setdefault((corpus, Kind(kind)), Counter()).update(counts)
    licences = _licences(lake, {corpus for corpus, _ in figures})
    corpora = tuple(
        Exported(
            corpus=corpus,
            kind=kind,
            licence=licences.get(corpus, "unknown: the corpus is in no snapshot any more"),
            **{name: counts[name] for name in ("samples", "questions", "heard")},
            left_out={name[1:]: count for name, count in sorted(counts.items()) if name.startswith("-")},
        )
        for (corpus, kind), counts in sorted(figures.items())
    )
    stage, placed = asked["stage"], sum(one.placed for one in manifest.counts)
    told = sum(one.samples + sum(one.left_out.values()) for one in corpora)
    if told != placed:
        raise Corrupt(f"{lake.url}: stage {stage} has {placed} samples by its manifest, {told} by its contexts")
    if not any(one.samples for one in corpora):
        reasons = sum((Counter(one.left_out) for one in corpora), Counter[str]())
        said = ", ".join(f"{reason} {count:,}" for reason, count in sorted(reasons.items()))
        raise UserError(f"{asked['dialect']} can say no sample of stage {stage}: {said or 'it has none'}")
    records = sum(part["records"] for part in parts)
    pieces = [task.record.removesuffix(".json") for task, part in zip(tasks, parts, strict=True) if part["records"]]
    every = [task.record.removesuffix(".json") for task in tasks]
    store.delete(f"{stage}/export.json")  # of another export, which from here on is not whole
    files = [
        _join(store, f"{stage}/records.{form.suffix}", [f"{one}.records" for one in pieces], form.brackets),
        _join(store, f"{stage}/left-out.jsonl", [f"{one}.left-out" for one in every], (b"", b"", b"")),
    ]
    made = Export.model_validate(
        {**asked, "records": records, "placed": placed, "corpora": corpora, "files": tuple(files)}
    )
    name, page = form.configuration(stage, [one.corpus for one in corpora], made.root)
    pages = {name: page, "README.md": _readme(made, manifest, form, name)}
    files += [_put(store, f"{stage}/{name}", page.encode()) for name, page in pages.items()]
    return made.model_copy(update={"files": tuple(files)})


def _licences(lake: Lake, corpora: set[str]) -> dict[str, str]:
    """The licence of each corpus, by the newest snapshot that has it."""
    found: dict[str, str] = {}
    for number in reversed(lake.numbers()):
        for state in lake.snapshot(number).corpora:
            found.setdefault(state.corpus.name, state.corpus.licence)
        if corpora <= found.keys():
            break
    return found


def _join(store: Store, path: str, parts: Sequence[str], brackets: tuple[bytes, bytes, bytes]) -> Stored:
    """One file of many, copied piece by piece."""
    state, size = blake3(), 0

    def write(file: BinaryIO, data: bytes) -> None:
        nonlocal size
        file.write(data)
        state.update(data)
        size += len(data)

    opening, between, closing = brackets
    with store.spool() as file:
        write(file, opening)
        for number, part in enumerate(parts):
            write(file, between if number else b"")
            with store.open(part) as piece:
                while data := piece.read(PIECE):
                    write(file, data)
        write(file, closing)
        file.flush()
        store.publish(file, path)
    return Stored(path=path, bytes=size, digest=state.hexdigest())


def _put(store: Store, path: str, data: bytes) -> Stored:
    store.replace(path, data)
    return Stored(path=path, bytes=len(data), digest=digest(data))


# --- what it is, for people -----------------------------------------------------------------------------------------

_WHY = {
    "answer-spoken": "the answer is a sound, which VITA's files cannot say",
    "answer-shown": "the answer shows an image or a video",
    "answer-sounds": "one answer has several sounds; the loader takes one",
    "images-in-turn": "a question shows several images; VITA's loader lays out one a turn",
    "videos": "it shows several videos; a record names one",
    "image-and-video": "it shows images and a video; the loader reads one or the other",
    "noise-form": "noise of several answers, of which one could be marked, or without a sound",
    "noise-unmarked": "noise, for which the form has no mark",
    "unheard": "there is sound in it, and Long-VITA hears nothing",
}


def _readme(made: Export, manifest: Manifest, form: Dialect, page: str) -> str:
    rows: list[tuple[str | int, ...]] = [
        ("corpus", "kind", "licence", "samples", "questions", "heard", "left out"),
        ("---",) * 7,
        *(
            (one.corpus, one.kind.value, one.licence, one.samples, one.questions, one.heard, sum(one.left_out.values()))
            for one in made.corpora
        ),
    ]
    table = "\n".join(
        f"| {' | '.join(f'{cell:,}' if isinstance(cell, int) else cell for cell in row)} |" for row in rows
    )
    reasons = sum((Counter(one.left_out) for one in made.corpora), Counter[str]())
    left = "\n".join(f"- `{reason}`: {count:,}, {_WHY[reason]}" for reason, count in sorted(reasons.items()))
    return f"""# {made.stage}: {manifest.stage.title}

Written by `tarsia export` for {made.dialect}, one record a {made.per}: {made.records:,} records of the {made.placed:,}
samples that the stage places, {made.left_out:,} left out. Manifest {made.manifest}.

{table}

The licences are those of the corpora as the catalog names them; what is made of their texts by voices has theirs too.

## Left out

{f"{left}{_NAMED}" if left else "Nothing."}

## To train on it

{_use(made, manifest, form, page)}
This is a copy: a record that is taken down in the lake stays here until the stage is planned and exported again.
"""


def _use(made: Export, manifest: Manifest, form: Dialect, page: str) -> str:
    settings, where = manifest.context, f"{made.root}/{made.stage}/{page}"
    if not form.together:
        return (
            f"Name `{where}` as the data file. Media stand in the records by their whole paths, below\n`{made.root}`.\n"
        )
    return f"""At the end of `vita/config/__init__.py`:

```python
import runpy

_export = runpy.run_path("{where}")
AudioFolder = _export["AudioFolder"]
DataConfig = {{**DataConfig, **_export["DataConfig"]}}
```

and then `--dataset_use {made.stage} --model_max_length {settings.tokens} --max_dynamic_patch {settings.tiles}`: what is
longer the loader cuts off in silence. It takes {form.fps} of a video's frames a second, shuffles the records by a seed
of its own, and adds states and system prompts, which are therefore not in here.
{_NO_CAP.format(settings.sample_tiles) if settings.sample_tiles else ""}"""


_NAMED = "\n\nEach is named in `left-out.jsonl`."
_NO_CAP = """
The plan gives all images of a sample {} tiles together. The loader knows no such cap: it gives samples of several
images more tiles than were counted.
"""
