"""Which samples are equal, or nearly: by what they say and what they show, whatever their records are called.

**Said** is the text: all turns and boxes. What was drawn for a record (a question of the templates, one of several
captions) is another for another key, so a draft that used its key is understood a second time, under the key of nobody;
two equal records then say the same. **Content** is what is said and the stored media, byte for byte. Equal samples have
equal content.

**Near** samples show images that look alike, one by one (`builders/likeness.py`), and say the same. Of captions the
images alone decide, since alternative texts of one picture differ from page to page.

**Excluded** is what equals a record of an evaluation set: a medium that stands in the set, an image that looks like one
of the set, or, where neither has media, the same human turns, however they are spaced and capitalised.

Of several the first stays: that of the corpus listed first in the catalog, in it the one with the smallest key. So what
stays is a function of the records and the catalog, and a corpus added at the end changes no other.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import count
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tarsia.builders.likeness import are_alike, pairs_alike
from tarsia.builders.storage import Store
from tarsia.builders.tables import get_table, put_table, put_tables
from tarsia.schemas.corpus import Corpus
from tarsia.schemas.identity import canonical, checksum, digest_of
from tarsia.schemas.lake import Repeats
from tarsia.schemas.sample import Draft, Kind, Sample
from tarsia.schemas.shard import CONTENTS, DUPLICATES, Shard, Stored

Hashes = npt.NDArray[np.uint64]
Refusals = dict[str, tuple[str, str]]  # key -> code and message
_BATCH = 4096  # rows that are spelt out at once


def said_of(draft: Draft) -> str:
    """The digest of a draft's turns and boxes, 32 hex digits."""
    turns = [[turn.speaker, turn.text] for turn in draft.turns]
    return digest_of([turns, [[box.text, box.points, box.readable] for box in draft.boxes]])[:32]


def asked_of(draft: Draft) -> int:
    """A hash of the human turns of a draft without media, however they are spaced and capitalised; 0 with media."""
    if draft.images or draft.videos or draft.audios:
        return 0
    turns = [" ".join(turn.text.casefold().split()) for turn in draft.turns if turn.speaker == "human"]
    return max(1, checksum(canonical(turns)))


def media_of(sample: Sample) -> list[str]:
    """The digests of a sample's images, audios and videos; a video's is that of its stored frames."""
    videos = (digest_of([frame.digest for frame in video.frames])[:32] for video in sample.videos)
    return [*(image.digest for image in sample.images), *(audio.digest for audio in sample.audios), *videos]


def content_of(said: str, sample: Sample) -> str:
    """The digest of what a sample says and shows, 32 hex digits."""
    return digest_of([said, len(sample.images), len(sample.audios), media_of(sample)])[:32]


class Compared(NamedTuple):
    """Samples of one corpus that are compared, in the order of their keys: rows with the columns of CONTENTS."""

    corpus: Corpus
    stands: bool  # they are in the lake already, and stay
    rows: pa.Table


def numbers(digests: pa.ChunkedArray) -> Hashes:
    """The first 64 bits of digests of 32 hex digits, 0 where there is none."""
    filled = digests.fill_null("0" * 32).cast(pa.binary()).cast(pa.binary(32))
    return _joined(_numbers(chunk) for chunk in filled.iterchunks())


def _numbers(digests: pa.FixedSizeBinaryArray) -> Hashes:
    _, data = digests.buffers()
    whole = data.to_pybytes()[32 * digests.offset :][: 32 * len(digests)] if len(digests) else b""
    first: Hashes = np.frombuffer(bytes.fromhex(whole.decode()), dtype=">u8")[::2].astype(np.uint64)
    return first


def repeated(said: Sequence[tuple[Hashes, bool]]) -> Hashes:
    """The texts, as 64-bit hashes, that stand more than once in corpora of which one at least has `dedup`.

    `said` has the corpora in the catalog's order, each with whether it has `dedup`; a text of one without it counts
    for those after it. Only such records can be equal, and only their media need to be opened.
    """
    last = max((number for number, (_, dedup) in enumerate(said) if dedup), default=-1)
    twice = _twice(one for one, _ in said[: last + 1])
    wanted: Hashes = twice[np.isin(twice, _joined(one for one, dedup in said if dedup)) & (twice != 0)]
    return wanted


def _twice(arrays: Iterable[Hashes]) -> Hashes:
    known, counts = np.unique(_joined(arrays), return_counts=True)
    return known[counts > 1]


def _joined(arrays: Iterable[Hashes]) -> Hashes:
    return np.concatenate([np.empty(0, np.uint64), *arrays])


def elsewhere(corpora: Sequence[Compared]) -> dict[str, Refusals]:
    """What `dedup` refuses as equal, or nearly, to a sample that stays, by corpus; `corpora` in the catalog's order."""
    contents = [numbers(corpus.rows["content"]) for corpus in corpora]
    firsts = [_first_images(corpus) for corpus in corpora]
    twice, neighbours = _twice(contents), _neighbours(_joined(first[first != 0] for first in firsts))
    involved = np.fromiter(neighbours, dtype=np.uint64, count=len(neighbours))
    refused: dict[str, Refusals] = defaultdict(dict)
    order = count(1)
    stays: dict[str, str] = {}  # content -> what is called so in a message
    seen: dict[tuple[str, int], list[_Seen]] = defaultdict(list)
    for corpus, content, first in zip(corpora, contents, firsts, strict=True):
        is_involved = np.isin(first, involved)
        chosen = np.isin(content, twice) | is_involved
        rows = (row for batch in corpus.rows.filter(pa.array(chosen)).to_batches(_BATCH) for row in batch.to_pylist())
        for fields, is_near in zip(rows, is_involved[chosen].tolist(), strict=True):
            tags = _tags(corpus, fields) if is_near else []
            if corpus.corpus.dedup and not corpus.stands:
                if equal := stays.get(fields["content"]):
                    refused[corpus.corpus.name][fields["key"]] = "duplicate", f"equal to {equal}"
                    continue
                if alike := _like(fields["hashes"], tags, seen, neighbours):
                    refused[corpus.corpus.name][fields["key"]] = "near-duplicate", f"looks like {alike}"
                    continue
            name = f"{corpus.corpus.name}/{fields['id']} ({fields['key']})"
            stays.setdefault(fields["content"], name)
            for tag in tags:
                seen[tag, fields["hashes"][0]].append(_Seen(next(order), name, fields["hashes"]))
    return refused


class _Seen(NamedTuple):
    """A sample that stays and may be looked like; the first has the smallest number."""

    number: int
    name: str
    hashes: list[int]


def _first_images(corpus: Compared) -> Hashes:
    """The hash of each row's first image, 0 where looks do not count."""
    counts = only_images(corpus.rows).to_numpy(zero_copy_only=False)
    if corpus.corpus.dedup != "near":
        return np.zeros(len(counts), np.uint64)
    first = pc.list_element(corpus.rows["hashes"].filter(pa.array(counts)), 0)
    found = np.zeros(len(counts), np.uint64)
    found[counts] = first.to_numpy()
    return found


def _tags(corpus: Compared, fields: dict[str, Any]) -> list[str]:
    """What must be equal besides the looks: what is said or, of two captions, nothing."""
    return [fields["said"], *[""] * (corpus.corpus.kind is Kind.CAPTION)]


def _like(
    hashes: list[int],
    tags: Sequence[str],
    seen: Mapping[tuple[str, int], list[_Seen]],
    neighbours: Mapping[int, list[int]],
) -> str | None:
    """The first sample seen that shows as many images, one by one alike."""
    met = (one for tag in tags for near in neighbours[hashes[0]] for one in seen.get((tag, near), ()))
    like = (one for one in met if len(one.hashes) == len(hashes) and all(map(are_alike, one.hashes, hashes)))
    return min(like, default=_Seen(0, "", [])).name or None


def only_images(rows: pa.Table) -> pa.ChunkedArray:
    """Which rows have images and, as far as their media are told, nothing else: those that can be nearly equal."""
    images = pc.list_value_length(rows["hashes"])
    media = pc.list_value_length(rows["media"]) if "media" in rows.column_names else images
    return pc.and_(pc.greater(images, 0), pc.equal(images, media))


def _neighbours(hashes: Hashes) -> dict[int, list[int]]:
    """Hashes that are not alone, each with those that it is alike, itself included."""
    known, counts = np.unique(hashes, return_counts=True)
    found = {one: [one] for one in known[counts > 1].tolist()}
    for left, right in zip(*(known[side].tolist() for side in pairs_alike(known)), strict=True):
        found.setdefault(left, [left]).append(right)
        found.setdefault(right, [right]).append(left)
    return found


class Sets:
    """Evaluation sets, ready to be asked whether a sample stands in one of them; the first set in the catalog answers.

    `rows`: tables of the schema EXCLUDED by the name of the set, in the order of the catalog.
    """

    def __init__(self, rows: Mapping[str, pa.Table]) -> None:
        self._asked: dict[int, str] = {}
        self._media: dict[str, str] = {}
        self._looks: dict[int, str] = {}
        for name, table in rows.items():
            for own, asked, media, hashes in _rows(table):
                where = f"{name}/{own}"
                if asked:
                    self._asked.setdefault(asked, where)
                for medium in media:
                    self._media.setdefault(medium, where)
                for one in hashes:
                    self._looks.setdefault(one, where)

    @property
    def asked(self) -> Hashes:
        """Hashes of the questions of records without media."""
        return np.fromiter(self._asked, dtype=np.uint64, count=len(self._asked))

    def asks(self, looked: pa.Table) -> Refusals:
        """Of rows with keys and hashes of questions: those that ask what a set asks."""
        rows = zip(looked["key"].to_pylist(), looked["asked"].to_pylist(), strict=True)
        return {key: ("excluded", f"asks what {self._asked[one]} asks") for key, one in rows if one in self._asked}

    def shown(self, looked: pa.Table) -> Refusals:
        """Of rows with keys, digests of media and hashes of images: those that show what a set shows."""
        rows = list(zip(*(looked[name].to_pylist() for name in ("key", "media", "hashes")), strict=True))
        near = self._near(np.array(sorted({one for *_, mine in rows for one in mine}), dtype=np.uint64))
        refused = {}
        for key, media, mine in rows:
            if found := next((self._media[one] for one in media if one in self._media), None):
                refused[key] = "excluded", f"shows a medium of {found}"
            elif found := next((near[one] for one in mine if one in near), None):
                refused[key] = "excluded", f"looks like an image of {found}"
        return refused

    def _near(self, hashes: Hashes) -> dict[int, str]:
        """Those of some hashes that look like an image of a set, and which."""
        theirs = np.fromiter(self._looks, dtype=np.uint64, count=len(self._looks))
        known = np.union1d(hashes, theirs)
        found = {one: self._looks[one] for one in np.intersect1d(hashes, theirs).tolist()}
        for left, right in zip(*(known[side].tolist() for side in pairs_alike(known)), strict=True):
            for mine, other in ((left, right), (right, left)):
                if other in self._looks:
                    found.setdefault(mine, self._looks[other])
        return found


def _rows(table: pa.Table) -> Iterator[tuple[str, int, list[str], list[int]]]:
    yield from zip(*(table[name].to_pylist() for name in ("id", "asked", "media", "hashes")), strict=True)


# --- what a lake keeps of it ----------------------------------------------------------------------------------------


def put_contents(store: Store, corpus: str, shards: Iterable[Shard], looks: Mapping[str, Stored]) -> Stored:
    """Stores what the samples of a corpus are compared by. `looks`: tables with the hashes of their images, by leaf."""
    return put_tables(store, f"contents/{corpus}/rows", _contents(store, shards, looks), CONTENTS)


def _contents(store: Store, shards: Iterable[Shard], looks: Mapping[str, Stored]) -> Iterator[pa.Table]:
    for shard in shards:
        index = get_table(store, shard.index, (*CONTENTS.names[:-1], "length"))
        index = index.filter(pc.greater(index["length"], 0))
        hashes: dict[str, list[int]] = {}
        if shard.leaf in looks:
            looked = get_table(store, looks[shard.leaf], ("key", "hashes", "media"))
            looked = looked.filter(only_images(looked))
            hashes = dict(zip(looked["key"].to_pylist(), looked["hashes"].to_pylist(), strict=True))
        mine = [hashes.get(key, []) for key in index["key"].to_pylist()]
        yield (
            index.select(CONTENTS.names[:-1])
            .append_column(CONTENTS.field("hashes"), pa.array(mine, CONTENTS.field("hashes").type))
            .cast(CONTENTS)
        )


_LISTED = pa.schema([(name, pa.string()) for name in DUPLICATES.names])  # dictionaries cannot be sorted by


def put_duplicates(store: Store, contents: Mapping[str, Stored]) -> tuple[Stored | None, tuple[Repeats, ...]]:
    """Stores the list of all samples that have an equal, and counts them; `contents` by corpus, in their order."""
    numbered = {name: numbers(get_table(store, stored, ("content",))["content"]) for name, stored in contents.items()}
    twice = _twice(numbered.values())
    parts = [_LISTED.empty_table()]
    for name, mine in numbered.items():
        chosen = np.isin(mine, twice)
        if chosen.any():
            rows = get_table(store, contents[name], ("content", "key", "id")).filter(pa.array(chosen))
            corpus = pa.array([name] * len(rows), pa.string())
            parts.append(rows.append_column("corpus", corpus).select(DUPLICATES.names))
    table = pa.concat_tables(parts).combine_chunks()
    _, group, counts = np.unique(table["content"].to_numpy(), return_inverse=True, return_counts=True)
    return _counted(store, table.filter(pa.array(counts[group] > 1)))


def _counted(store: Store, table: pa.Table) -> tuple[Stored | None, tuple[Repeats, ...]]:
    if not len(table):
        return None, ()
    table = table.sort_by([("content", "ascending"), ("corpus", "ascending"), ("key", "ascending")])
    names = table["corpus"].to_pylist()
    _, group, counts = np.unique(table["content"].to_numpy(), return_inverse=True, return_counts=True)
    order = {name: number for number, name in enumerate(sorted(set(names)))}
    corpus = np.array([order[name] for name in names])
    _, mine, own = np.unique(group * len(order) + corpus, return_inverse=True, return_counts=True)
    within, across = own[mine] > 1, counts[group] > own[mine]
    repeats = tuple(
        Repeats(
            corpus=name,
            within=int((within & (corpus == number)).sum()),
            across=int((across & (corpus == number)).sum()),
        )
        for name, number in order.items()
    )
    return put_table(store, "duplicates/rows", table.cast(DUPLICATES)), repeats
