"""`tarsia ingest`: raw corpora in, shards in draw order and a truthful count out.

    split  a large file     ->  parts that can be read alone
    scan   some raw files   ->  slices of raw records, and who they are
    settle                      identities over the whole corpus (here, 16 bytes a record)
    sort   a slice          ->  the slice in key order, understood, with a stamp of every record and its media
    compare                     what is refused since it stands elsewhere (pipelines/compare.py)
    build  a leaf           ->  tar, index and text of the leaf; refusals with reasons
    publish                     quarantine, then the next snapshot, last

Split, scan and sort leave their results under `work/`, removed at the end; a leaf is recorded under `commits/` by the
digest of everything it is made from, so that a resumed, a repeated and an incremental ingest are one and the same
thing: the plan minus what is recorded. A corpus whose files have not changed since the newest snapshot is not read at
all.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import merge
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from tarsia.builders.corpora import Part, find
from tarsia.builders.duplicates import Refusals, content_of, numbers, put_contents, put_duplicates
from tarsia.builders.lake import Lake
from tarsia.builders.media import Media
from tarsia.builders.records import MEDIA, Marks, Run, draws, merged, read_slice, scan, settle, sort, to_arrow, who
from tarsia.builders.samples import admit
from tarsia.builders.shards import Range, TarWriter, publish
from tarsia.builders.storage import Entry, Store, match, open_store
from tarsia.builders.tables import get_table, put_table
from tarsia.builders.tombstones import (
    put_tombstones,
    read_forbidden,
    read_tombstones,
    shown_by,
    standing_for,
    state_of,
    tombstone_within,
)
from tarsia.pipelines.commits import forget
from tarsia.pipelines.compare import Found, Piece, compare, read_sets
from tarsia.pipelines.pool import Pool, finish
from tarsia.pipelines.progress import Progress
from tarsia.pipelines.retry import retry as try_again
from tarsia.schemas.corpus import Catalog, Corpus
from tarsia.schemas.errors import BadCatalog, Corrupt, Drift, Refused, UnknownName
from tarsia.schemas.identity import canonical, checksum, digest, digest_of, draw_of
from tarsia.schemas.lake import FORMAT, ORDER, CorpusState, ExcludedSet, Snapshot
from tarsia.schemas.model import Model
from tarsia.schemas.sample import Draft, Sample
from tarsia.schemas.shard import INDEX, ORIGINS, QUARANTINE, TEXT, Shard, Stored, leaves

SCAN_BYTES = 64 << 20  # of raw files that one task scans, about, where the reader does not say otherwise
TAKEN_DOWN = "taken-down"  # the code of a record that shows what no corpus may hold
RAW_KEPT = 1 << 20  # bytes of a refused record that the quarantine keeps; beyond, its place alone


class Ingested(Model):
    """What became of one corpus."""

    corpus: str
    records: int
    samples: int
    questions: int
    quarantined: dict[str, int]
    identities: dict[str, int]
    notes: dict[str, int]  # images that are CMYK, turned … or were changed by a rule of the catalog
    shards: int
    written: int  # shards that this run built; the others stood already
    unchanged: bool
    equal_within: int = 0  # samples that have an equal in this corpus
    equal_across: int = 0  # samples that have one in another corpus of the lake
    taken_down: int = 0  # records that were, and stay away
    mended: int = 0  # records that were in quarantine and became samples


def ingest(
    catalog: Catalog,
    lake: Lake,
    pool: Pool,
    *,
    only: Sequence[str] = (),
    reread: bool = False,
    retry: bool = False,
    quiet: bool = False,
) -> list[Ingested]:
    """Brings the corpora of a catalog into the lake and publishes one snapshot. Raises if a record is lost.

    `reread` looks at every record and its media again, even where no annotation file changed; `retry` at the records
    in quarantine, and builds what those that became good belong to.
    """
    corpora = chosen(catalog, only)
    reports = dict[str, Ingested]()
    for round_ in [one for one in corpora if not one.of], [one for one in corpora if one.of]:  # these are made of those
        if round_:
            done = _ingest(catalog, round_, lake, pool, reread=reread, retry=retry, quiet=quiet)
            reports |= {one.corpus: one for one in done}
    return [reports[corpus.name] for corpus in corpora]


def _ingest(
    catalog: Catalog, corpora: Sequence[Corpus], lake: Lake, pool: Pool, *, reread: bool, retry: bool, quiet: bool
) -> list[Ingested]:
    newest = lake.snapshot() if lake.numbers() else Snapshot(number=0)
    corpora = [corpus.model_copy(update={"root": lake.url}) if corpus.of else corpus for corpus in corpora]
    names = [corpus.name for corpus in corpora]
    honoured = state_of(lake.store, names)
    gone = {name: put_tombstones(lake.store, name, read_tombstones(lake.store, name)) for name in names}
    surveyed = {corpus.name: survey(corpus, lake) for corpus in corpora}
    excluded = _excluded(catalog, newest, lake, pool, reread, quiet)
    good = _retried(corpora, surveyed, newest, lake, pool, quiet) if retry else {}
    plans, standing = [], {state.corpus.name: state for state in newest.corpora}
    for corpus in corpora:
        files, source = surveyed[corpus.name]
        before = standing.pop(corpus.name, None)
        same = before and before.source == source and before.compared == _compared(corpus, catalog, standing, excluded)
        same = same and before and before.tombstones == gone[corpus.name]
        if before and same and not reread and corpus.name not in good:
            standing[corpus.name] = before.model_copy(update={"corpus": corpus})  # its licence or root may be told anew
        else:
            plans.append(_Plan(corpus, source, files, _work(corpus, source, gone[corpus.name]), gone[corpus.name]))
    for plan in plans:
        if plan.corpus.name in good:
            _clear(lake, plan.work)
        elif reread:
            _clear(lake, f"{plan.work}/sort")
    _scan(plans, lake, pool, quiet)
    _sort(plans, lake, pool, quiet)
    for plan in plans:
        plan.pieces = list(_pieces(plan, lake))
        _forget(plan, good.get(plan.corpus.name, ()), lake)
    coming = {plan.corpus.name: plan for plan in plans}
    order = [corpus.name for corpus in catalog.corpora if corpora[0].of or not corpus.of]
    sides = [coming.get(name) or standing[name] for name in order if name in coming or name in standing]
    found = compare(sides, excluded, lake, pool, quiet=quiet)
    written = {}
    for state, count in _build(plans, found, lake, pool, quiet):
        compared = _compared(state.corpus, catalog, standing, excluded)
        standing[state.corpus.name] = state.model_copy(update={"compared": compared or ""})
        written[state.corpus.name] = count
    states = [_as_told(standing[corpus.name]) for corpus in corpora]
    published = lake.publish(lambda snapshot: _with(snapshot, states, excluded, honoured, lake))
    for corpus in (*corpora, *catalog.exclude):
        _clear(lake, f"work/{corpus.name}")
    return [_report(state, written.get(state.corpus.name), newest, published, lake) for state in states]


def _as_told(state: CorpusState) -> CorpusState:
    """A state without the place of the lake, which may move."""
    return (
        state.model_copy(update={"corpus": state.corpus.model_copy(update={"root": ""})}) if state.corpus.of else state
    )


def _work(corpus: Corpus, source: str, gone: Stored | None) -> str:
    """Where a corpus's slices lie on their way: others where other records were taken down."""
    return f"work/{corpus.name}/{digest_of([source, gone.digest])[:16] if gone else source[:16]}"


def _compared(
    corpus: Corpus, catalog: Catalog, states: Mapping[str, CorpusState], excluded: Sequence[ExcludedSet]
) -> str | None:
    """The digest of all that a corpus is compared with; None where some of it is not known yet."""
    names = [one.name for one in catalog.corpora if corpus.of or not one.of]
    earlier = names[: names.index(corpus.name)] if corpus.dedup else []
    if corpus.dedup and any(name not in states for name in earlier):
        return None
    contents = [(name, states[name].contents) for name in earlier]
    with_ = [[name, stored.digest if stored else ""] for name, stored in contents]
    return digest_of([with_, [[one.corpus.name, one.rows.digest] for one in excluded]]) if with_ or excluded else ""


def _excluded(
    catalog: Catalog, newest: Snapshot, lake: Lake, pool: Pool, reread: bool, quiet: bool
) -> list[ExcludedSet]:
    """The evaluation sets of the catalog, those that changed read anew."""
    known = {one.corpus.name: one for one in newest.excluded}
    plans = []
    for corpus in catalog.exclude:
        files, source = survey(corpus, lake)
        before = known.get(corpus.name)
        if before and before.source == source and not reread:
            known[corpus.name] = before.model_copy(update={"corpus": corpus})
        else:
            plans.append(_Plan(corpus, source, files, f"work/{corpus.name}/{source[:16]}"))
            _clear(lake, plans[-1].work)
    _scan(plans, lake, pool, quiet)
    _sort(plans, lake, pool, quiet)
    known |= {one.corpus.name: one for one in read_sets(plans, lake, pool, quiet=quiet)}
    return [known[corpus.name] for corpus in catalog.exclude]


def _retried(
    corpora: Sequence[Corpus],
    surveyed: Mapping[str, tuple[list[Entry], str]],
    newest: Snapshot,
    lake: Lake,
    pool: Pool,
    quiet: bool,
) -> dict[str, list[str]]:
    """The keys of records in quarantine that would not be refused again, of each corpus that is as it was read."""
    states = [state for corpus in corpora if (state := newest.corpus(corpus.name))]
    same = [state for state in states if state.source == surveyed[state.corpus.name][1]]
    current = {corpus.name: corpus for corpus in corpora}
    return try_again([(current[state.corpus.name], state.quarantine) for state in same], lake, pool, quiet=quiet)


def _forget(plan: "_Plan", good: Sequence[str], lake: Lake) -> None:
    """Takes back what is recorded of the leaves that hold records which became good: the rules were others then."""
    draws_ = np.array([draw_of(key) for key in good], dtype=np.uint64)
    for piece in plan.pieces if len(good) else ():
        if np.isin(piece.draws, draws_).any():
            for folder in ("corpora", "looks"):
                for entry in list(lake.store.list(f"commits/{folder}/{plan.corpus.name}")):
                    if entry.path.rpartition("/")[2].startswith(f"{piece.leaf}-"):
                        lake.store.delete(entry.path)


def chosen(catalog: Catalog, only: Sequence[str]) -> list[Corpus]:
    """The corpora of the catalog, or those named."""
    known = {corpus.name: corpus for corpus in catalog.corpora}
    for name in only:
        if name not in known:
            raise UnknownName("corpus", name, known)
    return [corpus for name, corpus in known.items() if not only or name in only]


def deepened(catalog: Catalog) -> Catalog:
    """The catalog with `images: {deep: true}` for every corpus: what `--deep` means, and all that it means."""
    deep = (
        corpus.model_copy(update={"images": corpus.images.model_copy(update={"deep": True})})
        for corpus in catalog.corpora
    )
    return catalog.model_copy(update={"corpora": tuple(deep)})


def survey(corpus: Corpus, lake: Lake | None = None) -> tuple[list[Entry], str]:
    """The raw files of a corpus, and a digest that changes when they or the entry in the catalog do."""
    where = f"corpus '{corpus.name}'"
    if corpus.of:
        return _survey_lake(corpus, lake, where)
    reader, store = find(corpus.format, where), open_store(corpus.root)
    if lake and lake.url == store.url:
        raise BadCatalog(f"{where}: its root is the lake itself, {lake.url}")
    patterns = corpus.files or reader.FILES
    files = {entry.path: entry for pattern in patterns for entry in match(store, pattern)}
    ordered = [files[path] for path in sorted(files) if not (lake and f"{store.url}/{path}".startswith(f"{lake.url}/"))]
    if not ordered:
        raise BadCatalog(f"{where}: no file {' or '.join(patterns)} below {corpus.root}")
    try:
        what = corpus.model_dump(mode="json", exclude={"root", "licence", "tags"}, exclude_defaults=True)
        return ordered, digest_of([FORMAT, ORDER, what, [list(entry) for entry in ordered]])
    except TypeError as error:
        raise BadCatalog(f"{where}: a file below {corpus.root} has a name that is not UTF-8") from error


def _survey_lake(corpus: Corpus, lake: Lake | None, where: str) -> tuple[list[Entry], str]:
    """The texts of the corpora that it is made of, as the newest snapshot has them."""
    if lake is None:
        raise BadCatalog(f"{where}: it is made of {' and '.join(corpus.of)}, once these are ingested")
    snapshot = lake.snapshot() if lake.numbers() else Snapshot(number=0)
    standing = {state.corpus.name: state for state in snapshot.corpora}
    for name in corpus.of:
        if name not in standing:
            raise UnknownName("corpus in the lake", name, standing, where)
    texts = [shard.text for name in sorted(corpus.of) for shard in standing[name].shards]
    what = corpus.model_dump(mode="json", exclude={"root", "licence", "tags"}, exclude_defaults=True)
    files = [Entry(one.path, one.bytes, one.digest) for one in texts]
    return files, digest_of([FORMAT, ORDER, what, [list(entry) for entry in files]])


def _clear(lake: Lake, folder: str) -> None:
    """Removes all below a folder, records first: what is recorded must be there."""
    for entry in sorted(lake.store.list(folder), key=lambda entry: not entry.path.endswith(".json")):
        lake.store.delete(entry.path)


@dataclass
class _Plan:
    """One corpus on its way."""

    corpus: Corpus
    source: str
    files: list[Entry]
    work: str
    gone: Stored | None = None  # what was taken down
    loads: list[tuple[tuple[str, Part | None], ...]] = field(default_factory=list)  # files or parts that are one task
    slices: list[str] = field(default_factory=list)  # paths, without their endings
    identities: dict[str, int] = field(default_factory=dict)
    sorted: list[dict[str, Any]] = field(default_factory=list)  # what `Sort` gave
    pieces: list[Piece] = field(default_factory=list)

    @property
    def shows(self) -> set[str]:
        """The sorts of media that its records have."""
        return {name for part in self.sorted for name in part["shows"]}


# --- split ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Split:
    """Looks where a large file of a corpus may be cut."""

    lake: str
    corpus: Corpus
    file: str
    size: int
    record: str

    def run(self) -> Any:
        """The parts; none where the file is read whole."""
        split = find(self.corpus.format).split  # type: ignore[attr-defined]
        return [list(part) for part in split(open_store(self.corpus.root), self.file, self.size)]


def _split(plans: list[_Plan], lake: Lake, pool: Pool, quiet: bool) -> None:
    tasks = [
        Split(lake.url, plan.corpus, entry.path, size, f"{plan.work}/split/{number:05d}.json")
        for plan in plans
        for number, entry in enumerate(plan.files)
        if entry.size > (size := _load_bytes(plan.corpus)) and hasattr(find(plan.corpus.format), "split")
    ]
    found = zip(tasks, finish(tasks, pool, Progress("split", "large files", quiet=quiet)), strict=True)
    parts = {(task.corpus.name, task.file): tuple(Part(*part) for part in result) for task, result in found}
    for plan in plans:
        pieces = [
            (entry.path, part, part.end - part.begin if part else entry.size)
            for entry in plan.files
            for part in parts.get((plan.corpus.name, entry.path)) or (None,)
        ]
        plan.loads = _loads(pieces, _load_bytes(plan.corpus))


def _load_bytes(corpus: Corpus) -> int:
    """Bytes of raw files that one task scans, about."""
    return int(getattr(find(corpus.format), "PART", SCAN_BYTES))


def _loads(pieces: Sequence[tuple[str, Part | None, int]], most: int) -> list[tuple[tuple[str, Part | None], ...]]:
    """Files and parts in groups of about `most` bytes: a large one alone, many small ones together."""
    loads: list[tuple[tuple[str, Part | None], ...]] = []
    load: list[tuple[str, Part | None]] = []
    size = 0
    for path, part, length in pieces:
        load.append((path, part))
        size += length
        if size >= most:
            loads.append(tuple(load))
            load, size = [], 0
    return [*loads, tuple(load)] if load else loads


# --- scan -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scan:
    """Reads some raw files of a corpus, or parts of them, into slices."""

    lake: str
    corpus: Corpus
    files: tuple[tuple[str, Part | None], ...]
    record: str

    def run(self) -> Any:
        """Paths of the slices, and of what settling needs."""
        store, out = open_store(self.lake), []
        name = self.record.removesuffix(".json")
        slices = scan(find(self.corpus.format), open_store(self.corpus.root), self.files, name)
        for number, (table, media) in enumerate(slices):
            path = f"{name}-{number:05d}"
            if media:
                with store.spool() as file:
                    file.writelines(media)
                    store.publish(file, f"{path}.media")
            store.replace(f"{path}.arrow", to_arrow(table))
            store.replace(f"{path}.who", who(table).tobytes())
            out.append(path)
        return out


def _scan(plans: list[_Plan], lake: Lake, pool: Pool, quiet: bool) -> None:
    _split(plans, lake, pool, quiet)
    tasks = [
        Scan(lake.url, plan.corpus, files, f"{plan.work}/scan/{number:05d}.json")
        for plan in plans
        for number, files in enumerate(plan.loads)
    ]
    results = iter(finish(tasks, pool, Progress("scan", "groups of raw files", quiet=quiet)))
    for plan in plans:
        plan.slices = [path for _ in plan.loads for path in next(results)]
        rows = [np.frombuffer(lake.store.read(f"{path}.who"), dtype=np.uint64) for path in plan.slices]
        everyone = np.concatenate([np.empty(0, np.uint64), *rows]).reshape(-1, 2)
        marks = settle(everyone)
        missing = everyone[:, 0] == 0
        counts = {
            "own id": len(everyone) - int((missing | marks.collided).sum()),
            "id and record": int(marks.collided.sum()),
            "record": int(missing.sum()),
            "repeated": int((marks.occurrence > 0).sum()),
        }
        plan.identities = {name: count for name, count in counts.items() if count}
        begin = 0
        for path, part in zip(plan.slices, rows, strict=True):
            end = begin + len(part) // 2
            mine = Marks(marks.collided[begin:end], marks.occurrence[begin:end])
            lake.store.replace(f"{path}.marks", mine.to_bytes())
            begin = end


# --- sort -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sort:
    """Puts one slice in key order, understands its records, and looks which versions of their media are there.

    What was taken down ends here: nothing of it is written.
    """

    lake: str
    corpus: Corpus
    slice: str
    gone: Stored | None
    record: str

    def run(self) -> Any:
        """Where the sorted slice lies, how many rows it has, where its origins are."""
        store, source = open_store(self.lake), open_store(self.corpus.root)
        with store.open(f"{self.slice}.arrow") as file, pa.ipc.open_file(file) as reader:
            scanned = reader.read_all()
        marks = Marks.from_bytes(store.read(f"{self.slice}.marks"))
        table = sort(scanned, marks, self.corpus, find(self.corpus.format), self._taken_down(store))
        path = self.record.removesuffix(".json")
        store.replace(f"{path}.arrow", to_arrow(table))
        columns = ("key", "record", "id", "draft", "said", "code", "message")
        told = zip(*(table[name].to_pylist() for name in columns), strict=True)
        named = [_media_of(draft) for draft in table["draft"].to_pylist()]
        carried = pc.list_flatten(table["media"])
        inside = pc.is_null(pc.struct_field(carried, "checksum"))
        elsewhere = pc.unique(pc.struct_field(carried.filter(inside), "path")).to_pylist()
        there = source.entries({path for paths in named for path in paths if not path.startswith("@")}.union(elsewhere))
        versions = (
            [media.version(path) for path in paths]
            for paths, carried in zip(named, table["media"], strict=True)
            for media in [Media(source, carried.as_py(), known=there)]
        )
        stamps = np.array([checksum(canonical(row)) for row in zip(told, versions, strict=True)], dtype=np.uint64)
        said, asked = numbers(table["said"]), table["asked"].to_numpy()
        known = np.array([draws(table["key"].to_pylist()), stamps, said, asked], dtype=np.uint64)
        store.replace(f"{path}.stamps", known.tobytes())
        origins = put_table(store, f"origins/{self.corpus.name}/part", table.select(ORIGINS.names).cast(ORIGINS))
        shows = [name for name in MEDIA if any(f'"{name}":["' in (draft or "") for draft in table["draft"].to_pylist())]
        return {"path": path, "rows": len(table), "shows": shows, "origins": origins.model_dump(mode="json")}

    def _taken_down(self, store: Store) -> set[str]:
        return set(get_table(store, self.gone, ("key",))["key"].to_pylist()) if self.gone else set()


def _media_of(draft: str | None) -> list[str]:
    """Every medium that a draft names."""
    fields = orjson.loads(draft) if draft else {}
    return [path for name in MEDIA for path in fields.get(name, ())]


def _sort(plans: list[_Plan], lake: Lake, pool: Pool, quiet: bool) -> None:
    tasks = [
        Sort(lake.url, plan.corpus, path, plan.gone, f"{plan.work}/sort/{number:05d}.json")
        for plan in plans
        for number, path in enumerate(plan.slices)
    ]
    results = iter(finish(tasks, pool, Progress("sort", "slices", quiet=quiet)))
    for plan in plans:
        plan.sorted = [next(results) for _ in plan.slices]


# --- build ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Build:
    """Writes one leaf: `parts` are runs of rows of sorted slices."""

    lake: str
    corpus: Corpus
    leaf: str
    parts: tuple[Run, ...]
    elsewhere: tuple[tuple[str, str, str], ...]  # key, code, message of what is refused as it stands elsewhere
    gone: Stored | None
    record: str

    def run(self) -> Any:
        """The committed shard, and what was refused."""
        store, source = open_store(self.lake), open_store(self.corpus.root)
        refused = list(self.elsewhere)
        skipped, forbidden = {key for key, _, _ in refused}, read_forbidden(store)
        gone = tombstone_within(store, self.gone, self.leaf)
        columns = ("key", "id", "record", "code", "message", "draft", "said", "media")
        index, text, notes = list[dict[str, Any]](), list[dict[str, Any]](), Counter[str]()
        with store.spool() as file:
            tar = TarWriter(file)
            for row in merge(merged(store, self.parts, columns), gone, key=lambda row: str(row["key"])):
                if row["key"] in skipped:
                    continue
                if "draft" not in row:
                    for part, standing in zip((index, text), standing_for(row, self.corpus), strict=True):
                        part.append(standing)
                    continue
                try:
                    carried = Media(source, row["media"], store)
                    sample, media, noted = admit(_drafted(row), self.corpus, row["key"], row["id"], carried)
                except Refused as error:
                    refused.append((row["key"], error.code, error.message))
                    continue
                fields = sample.model_dump(mode="json", by_alias=True)
                if forbidden & {*shown_by(sample), content_of(row["said"], sample)}:
                    refused.append((row["key"], TAKEN_DOWN, "it shows what was taken down"))
                    continue
                where = tar.add(sample.key, [*media, ("json", canonical(fields))])
                index.append(index_row(sample, fields, row["record"], row["said"], where))
                text.append({"key": sample.key, "conversations": fields["conversations"]})
                notes.update(noted)
            objects: tuple[Stored, ...] = ()
            if index:
                tables = (
                    (".parquet", pa.Table.from_pylist(index, INDEX)),
                    (".text.parquet", pa.Table.from_pylist(text, TEXT)),
                )
                path = f"corpora/{self.corpus.name}/{self.leaf}"
                objects = publish(store, path, file, tar.close(), tar.bytes, tables)
        shard = shard_of(self.leaf, index, objects)
        return {"shard": shard.model_dump(mode="json"), "refused": refused, "notes": dict(sorted(notes.items()))}


def shard_of(leaf: str, index: Sequence[Mapping[str, Any]], objects: tuple[Stored, ...]) -> Shard:
    """A leaf of a corpus by the rows of its index."""
    questions = [row["questions"] for row in index if row["length"]]
    gone = len(index) - len(questions)
    return Shard(leaf=leaf, samples=len(index), questions=sum(questions), objects=objects, taken_down=gone)


def _drafted(row: dict[str, Any]) -> Draft:
    if row["draft"] is None:
        raise Refused(row["code"], row["message"])
    return Draft.model_validate_json(row["draft"])


def index_row(sample: Sample, fields: dict[str, Any], record: str, said: str, where: Range) -> dict[str, Any]:
    """The row of INDEX that says what a sample is (`fields` are its JSON) and where it lies."""
    row = {name: fields[name] for name in ("key", "corpus", "id", "kind", "language", "images", "audios", "videos")}
    row |= where._asdict()
    row["members"] = [member._asdict() for member in where.members]
    row |= {"draw": draw_of(sample.key), "record": record, "modality": sample.modality, "questions": sample.questions}
    return row | {"said": said, "content": content_of(said, sample)}


def _build(
    plans: list[_Plan], found: Mapping[str, Found], lake: Lake, pool: Pool, quiet: bool
) -> list[tuple[CorpusState, int]]:
    tasks: list[Build] = []
    sizes = []
    for plan in plans:
        mine = list(_leaf_tasks(plan, found[plan.corpus.name].refused, lake))
        tasks += mine
        sizes.append(len(mine))
    there = {entry.path for plan in plans for entry in lake.store.list(f"commits/corpora/{plan.corpus.name}")}
    results = finish(tasks, pool, Progress("build", "shards", quiet=quiet))
    states, first = [], 0
    for plan, count in zip(plans, sizes, strict=True):
        mine, results_of = tasks[first : first + count], results[first : first + count]
        looks = found[plan.corpus.name].looks if plan.corpus.dedup == "near" else {}
        states.append((_state(plan, results_of, looks, lake), sum(task.record not in there for task in mine)))
        first += count
    return states


def _pieces(plan: _Plan, lake: Lake) -> Iterator[Piece]:
    """The leaves of the trie over all records of the corpus, refused ones included."""
    stamped = [np.frombuffer(lake.store.read(f"{part['path']}.stamps"), dtype=np.uint64) for part in plan.sorted]
    slices = [array.reshape(4, -1) for array in stamped]
    together = np.concatenate([_stamped(plan.gone, lake), *slices], axis=1)
    everyone, stamps, said, asked = together[:, np.argsort(together[0], kind="stable")]
    for leaf in leaves(everyone, plan.corpus.cap):
        low, high = everyone[leaf.begin], everyone[leaf.end - 1]
        parts = []
        for part, mine in zip(plan.sorted, slices, strict=True):
            begin = int(np.searchsorted(mine[0], low, side="left"))
            end = int(np.searchsorted(mine[0], high, side="right"))
            if begin < end:
                parts.append((f"{part['path']}.arrow", begin, end))
        what = plan.corpus.of_media()  # stamps hold all else
        rows = slice(leaf.begin, leaf.end)
        inputs = [FORMAT, ORDER, what, leaf.name, digest(np.sort(stamps[rows]).tobytes())]
        yield Piece(leaf.name, tuple(parts), inputs, everyone[rows], said[rows], asked[rows])


def _stamped(gone: Stored | None, lake: Lake) -> npt.NDArray[np.uint64]:
    """What was taken down as columns of draw and stamp; it says nothing and asks nothing."""
    rows = get_table(lake.store, gone).to_pylist() if gone else []
    columns = [(row["draw"], checksum(canonical(row)), 0, 0) for row in rows]
    return np.array(columns, dtype=np.uint64).reshape(-1, 4).T


def _leaf_tasks(plan: _Plan, refused: Refusals, lake: Lake) -> Iterator[Build]:
    """One task for each leaf, with what of it is refused because it stands elsewhere."""
    keys = sorted(refused)
    for piece in plan.pieces:
        low, high = (f"{int(draw):016x}" for draw in (piece.draws[0], piece.draws[-1]))
        mine = keys[bisect_left(keys, low) : bisect_left(keys, f"{high}g")]
        elsewhere = tuple((key, *refused[key]) for key in mine)
        inputs = digest_of([*piece.inputs, elsewhere])
        record = f"commits/corpora/{plan.corpus.name}/{piece.leaf}-{inputs[:16]}.json"
        yield Build(lake.url, plan.corpus, piece.leaf, piece.parts, elsewhere, plan.gone, record)


def _state(plan: _Plan, results: list[Any], looks: Mapping[str, Stored], lake: Lake) -> CorpusState:
    refused = {key: (code, message) for result in results for key, code, message in result["refused"]}
    built = (Shard.model_validate(result["shard"]) for result in results)
    shards = tuple(shard for shard in built if shard.objects)
    notes = sum((Counter(result["notes"]) for result in results), Counter[str]())
    gone = len(get_table(lake.store, plan.gone, ("key",))) if plan.gone else 0
    state = CorpusState(
        corpus=plan.corpus,
        source=plan.source,
        records=sum(part["rows"] for part in plan.sorted) + gone,
        quarantined=dict(sorted(Counter(code for code, _ in refused.values()).items())),
        identities=plan.identities,
        notes=dict(sorted(notes.items())),
        shards=shards,
        quarantine=_quarantine(plan, refused, lake) if refused else None,
        taken_down=gone,
        tombstones=plan.gone,
        origins=tuple(Stored.model_validate(part["origins"]) for part in plan.sorted),
        contents=put_contents(lake.store, plan.corpus.name, shards, looks) if shards else None,
    )
    if state.records != state.samples + len(refused) + gone:
        raise Corrupt(
            f"corpus '{plan.corpus.name}': {state.records} records went in, "
            f"{state.samples} samples, {len(refused)} refusals and {gone} tombstones came out"
        )
    return state


def _quarantine(plan: _Plan, refused: dict[str, tuple[str, str]], lake: Lake) -> Stored:
    """Every refusal as a row: the reason, the place, and the raw record where it is not too large, or taken down."""
    keys, parts = pa.array(list(refused), pa.string()), []
    for part in plan.sorted:
        slice_ = read_slice(lake.store, f"{part['path']}.arrow", ("key", "id", "file", "begin", "end", "raw"))
        parts.append(slice_.filter(pc.is_in(slice_["key"], value_set=keys)))
    table = pa.concat_tables(parts, promote_options="permissive").sort_by("key")
    reasons = [refused[key] for key in table["key"].to_pylist()]
    taken = pa.array([code == TAKEN_DOWN for code, _ in reasons], pa.bool_())
    unkept = pc.or_(taken, pc.greater(pc.binary_length(table["raw"]), RAW_KEPT))
    columns = {
        **{name: table[name] for name in ("key", "begin", "end")},
        "id": pc.if_else(taken, pa.scalar(None, pa.string()), table["id"]),
        "file": table["file"].cast(pa.string()),
        "raw": pc.if_else(unkept, pa.scalar(None, pa.binary()), table["raw"]),
        "code": pa.array([code for code, _ in reasons], pa.string()),
        "message": pa.array([message for _, message in reasons], pa.string()),
    }
    rows = pa.table([columns[name] for name in QUARANTINE.names], QUARANTINE)
    return put_table(lake.store, f"quarantine/{plan.corpus.name}/rows", rows)


def _with(
    snapshot: Snapshot, states: list[CorpusState], excluded: list[ExcludedSet], honoured: list[str], lake: Lake
) -> Snapshot:
    names = {state.corpus.name: None for state in states}
    if {*state_of(lake.store, names)} - {*honoured} - {state.tombstones.path for state in states if state.tombstones}:
        forget(lake, snapshot, names)
        raise Drift(f"{lake.url}: records were taken down while they were read; run the same command again")
    kept = [state for state in snapshot.corpora if state.corpus.name not in names]
    corpora = tuple(sorted([*kept, *states], key=lambda state: state.corpus.name))
    changed = snapshot.model_copy(update={"corpora": corpora, "excluded": tuple(excluded)})
    contents = {state.corpus.name: state.contents for state in corpora if state.contents}
    if contents == {state.corpus.name: state.contents for state in snapshot.corpora if state.contents}:
        return changed
    duplicates, repeats = put_duplicates(lake.store, contents)
    return changed.model_copy(update={"duplicates": duplicates, "repeats": repeats})


def _report(state: CorpusState, written: int | None, before: Snapshot, after: Snapshot, lake: Lake) -> Ingested:
    repeats = next((one for one in after.repeats if one.corpus == state.corpus.name), None)
    refused = before.corpus(state.corpus.name)
    return Ingested(
        corpus=state.corpus.name,
        records=state.records,
        samples=state.samples,
        questions=state.questions,
        quarantined=state.quarantined,
        identities=state.identities,
        notes=state.notes,
        taken_down=state.taken_down,
        shards=len(state.shards),
        written=written or 0,
        unchanged=written is None,
        equal_within=repeats.within if repeats else 0,
        equal_across=repeats.across if repeats else 0,
        mended=_mended(refused, state, lake) if refused and refused.quarantine != state.quarantine else 0,
    )


def _mended(before: CorpusState, now: CorpusState, lake: Lake) -> int:
    """How many records that were in quarantine are not any more."""
    refused, still = (
        set(get_table(lake.store, one.quarantine, ("key",))["key"].to_pylist()) if one.quarantine else set()
        for one in (before, now)
    )
    return len(refused - still)
