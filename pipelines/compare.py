"""What is refused because it stands elsewhere: found before anything is written, so that no leaf is written twice.

    look       a leaf of a corpus on its way  ->  what those of its records show that may be refused
    read_sets  the evaluation sets            ->  what they hold, kept in the lake
    compare    all of it                      ->  refusals, by corpus and key

Equal samples say the same, which is known when slices are sorted; so only media of records whose text stands twice are
opened. Images are hashed only for `dedup: near` and for evaluation sets that hold images, and then all of a corpus. A
look is recorded by the digest of all that it saw, as a leaf is: an edit costs a look at its leaf.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tarsia.builders.duplicates import (
    Compared,
    Hashes,
    Refusals,
    Sets,
    content_of,
    elsewhere,
    media_of,
    numbers,
    repeated,
)
from tarsia.builders.lake import Lake
from tarsia.builders.likeness import hash_of
from tarsia.builders.media import Media
from tarsia.builders.records import MEDIA, Run, merged
from tarsia.builders.samples import Members, admit
from tarsia.builders.tables import get_table, get_tables, put_table
from tarsia.pipelines.coming import Coming, Step
from tarsia.pipelines.pool import Pool, finish
from tarsia.pipelines.progress import Progress
from tarsia.schemas.errors import BadCatalog, Refused
from tarsia.schemas.identity import digest_of
from tarsia.schemas.lake import CorpusState, ExcludedSet
from tarsia.schemas.sample import AUDIO, IMAGE, VIDEO, Draft, Sample, Turn
from tarsia.schemas.shard import CONTENTS, EXCLUDED, LOOKED, Stored

COLUMNS = ("key", "id", "draft", "said", "asked", "media")
PLACEHOLDERS = {"images": IMAGE, "videos": VIDEO, "audios": AUDIO}


@dataclass
class Found:
    """What comparing found of one corpus: refusals, and the tables of looks by leaf."""

    refused: Refusals = field(default_factory=dict)
    looks: dict[str, Stored] = field(default_factory=dict)


# --- look -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Look(Step):
    """Looks at records of a leaf: those with the `draws`, and all that have media of the sorts `shows`."""

    leaf: str
    parts: tuple[Run, ...]
    draws: frozenset[int]
    shows: frozenset[str]

    def run(self) -> Any:
        """The table of what they say and show; those that are refused anyway are not in it."""
        store, source = self.store, self.source
        rows = []
        for row in merged(store, self.parts, COLUMNS):
            if row["draft"] is None:
                continue
            draft = Draft.model_validate_json(row["draft"])
            if int(row["key"][:16], 16) not in self.draws and not any(getattr(draft, name) for name in self.shows):
                continue
            try:
                sample, members, _ = admit(
                    draft, self.corpus, row["key"], row["id"], Media(source, row["media"], store)
                )
            except Refused:
                continue
            hashes = _hashes(sample, members) if "images" in self.shows else []
            looked = {"content": content_of(row["said"], sample), "media": media_of(sample), "hashes": hashes}
            rows.append({**row, **looked})
        table = pa.Table.from_pylist(rows, LOOKED)
        return put_table(store, f"looks/{self.corpus.name}/{self.leaf}", table).model_dump(mode="json")


def _hashes(sample: Sample, members: Members) -> list[int]:
    """The perceptual hashes of a sample's images; an image that no decoder opens stands for itself alone."""
    stored, found = dict(members), []
    for image in sample.images:
        try:
            found.append(hash_of(stored[image.member], image.digest))
        except (OSError, ValueError, SyntaxError):  # what Pillow raises of broken pixels; headers were read before
            found.append(int(image.digest[:16], 16))
    return found


# --- evaluation sets ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ReadSet(Step):
    """What one sorted slice of an evaluation set holds."""

    slice: str
    rows: int

    def run(self) -> Any:
        """The table of its records, what could not be read, and the sorts of media there are."""
        store, source = self.store, self.source
        rows, unread, shows = [], Counter[str](), set[str]()
        for row in merged(store, ((self.slice, 0, self.rows),), (*COLUMNS, "code")):
            try:
                if row["draft"] is None:
                    raise Refused(row["code"], "")
                draft = Draft.model_validate_json(row["draft"])
                sample, members, _ = admit(
                    _answered(draft), self.corpus, row["key"], row["id"], Media(source, row["media"], store)
                )
            except Refused as error:
                unread[error.code] += 1
                continue
            shows.update(name for name in MEDIA if getattr(draft, name))
            rows.append({**row, "media": media_of(sample), "hashes": _hashes(sample, members)})
        table = pa.Table.from_pylist(rows, EXCLUDED)
        stored = put_table(store, self.record.removesuffix(".json"), table)
        return {"rows": stored.model_dump(mode="json"), "unread": dict(sorted(unread.items())), "shows": sorted(shows)}


def _answered(draft: Draft) -> Draft:
    """The draft with a conversation that passes whatever it was: nobody trains on it, only its media are wanted."""
    asked = " ".join(sign for name, sign in PLACEHOLDERS.items() for _ in getattr(draft, name))
    turns = (
        Turn.model_validate({"from": "human", "value": f"{asked}?"}),
        Turn.model_validate({"from": "gpt", "value": "-"}),
    )
    return draft.model_copy(update={"turns": turns})


def read_sets(sets: Sequence[Coming], lake: Lake, pool: Pool, *, quiet: bool) -> list[ExcludedSet]:
    """Keeps what the sets hold as tables of the lake. Raises where nothing of a set can be read."""
    tasks = [
        ReadSet(lake.url, one.corpus, f"{one.work}/set/{number:05d}.json", f"{part['path']}.arrow", part["rows"])
        for one in sets
        for number, part in enumerate(one.sorted)
    ]
    results = iter(finish(tasks, pool, Progress("exclude", "slices of evaluation sets", quiet=quiet)))
    return [_kept_set(one, [next(results) for _ in one.sorted], lake) for one in sets]


def _kept_set(one: Coming, results: list[Any], lake: Lake) -> ExcludedSet:
    tables = (Stored.model_validate(result["rows"]) for result in results)
    rows = get_tables(lake.store, tables, EXCLUDED, EXCLUDED.names).sort_by(
        [("id", "ascending"), ("asked", "ascending")]
    )
    unread: Counter[str] = Counter()
    for result in results:
        unread.update(result["unread"])
    if not len(rows):
        why = ", ".join(f"{count} {code}" for code, count in sorted(unread.items())) or "it has none"
        raise BadCatalog(f"excluded set '{one.corpus.name}': none of its records can be read: {why}")
    return ExcludedSet(
        corpus=one.corpus,
        source=one.source,
        records=len(rows) + unread.total(),
        unread=dict(sorted(unread.items())),
        shows=tuple(sorted({name for result in results for name in result["shows"]})),
        rows=put_table(lake.store, f"excluded/{one.corpus.name}/rows", rows),
    )


# --- compare --------------------------------------------------------------------------------------------------------


def compare(
    corpora: Sequence[Coming | CorpusState], excluded: Sequence[ExcludedSet], lake: Lake, pool: Pool, *, quiet: bool
) -> dict[str, Found]:
    """What is refused of the corpora on their way; `corpora` in the catalog's order, with those that stand between."""
    found: dict[str, Found] = defaultdict(Found)
    sets = Sets({one.corpus.name: get_table(lake.store, one.rows) for one in excluded})
    wanted = _wanted(corpora, lake)
    tasks = [
        task
        for one, texts in zip(corpora, wanted, strict=True)
        if not isinstance(one, CorpusState)
        for task in _looks(one, texts, excluded, sets, lake)
    ]
    results = finish(tasks, pool, Progress("compare", "shards", quiet=quiet))
    for task, result in zip(tasks, results, strict=True):
        found[task.corpus.name].looks[task.leaf] = Stored.model_validate(result)
    sides = [_side(one, found[one.corpus.name], texts, lake) for one, texts in zip(corpora, wanted, strict=True)]
    for side in sides:
        if not side.stands:
            found[side.corpus.name].refused |= {**sets.shown(side.rows), **sets.asks(side.rows)}
    for name, refused in elsewhere([_left(side, found) for side in sides]).items():
        found[name].refused |= refused
    return found


def _wanted(corpora: Sequence[Coming | CorpusState], lake: Lake) -> list[Hashes]:
    """For each corpus the texts whose records may be equal to others; none where nothing after it asks."""
    asking = [not isinstance(one, CorpusState) and one.corpus.dedup is not None for one in corpora]
    last = max((number for number, asks in enumerate(asking) if asks), default=-1)
    said = [_said(one, lake) for one in corpora[: last + 1]]
    twice = repeated(list(zip(said, asking, strict=False)))
    return [twice if number <= last else np.empty(0, np.uint64) for number in range(len(corpora))]


def _said(one: Coming | CorpusState, lake: Lake) -> Hashes:
    if isinstance(one, CorpusState):
        return (
            numbers(get_table(lake.store, one.contents, ("said",))["said"]) if one.contents else np.empty(0, np.uint64)
        )
    return np.concatenate([np.empty(0, np.uint64), *(piece.said for piece in one.pieces)])


def _looks(one: Coming, texts: Hashes, excluded: Sequence[ExcludedSet], sets: Sets, lake: Lake) -> Iterator[Look]:
    """A task for each leaf that has something to be looked at."""
    sorts = {name for set_ in excluded for name in set_.shows} | ({"images"} if one.corpus.dedup == "near" else set())
    shows = sorts & one.shows
    for piece in one.pieces:
        draws = piece.draws[np.isin(piece.said, texts) | np.isin(piece.asked, sets.asked)].tolist()
        if draws or shows:
            inputs = digest_of([piece.inputs, draws, sorted(shows)])
            record = f"commits/looks/{one.corpus.name}/{piece.leaf}-{inputs[:16]}.json"
            yield Look(lake.url, one.corpus, record, piece.leaf, piece.parts, frozenset(draws), frozenset(shows))


def _side(one: Coming | CorpusState, found: Found, texts: Hashes, lake: Lake) -> Compared:
    """The rows of one corpus that take part: what was looked at, or what stands."""
    if not isinstance(one, CorpusState):
        return Compared(one.corpus, False, get_tables(lake.store, found.looks.values(), LOOKED, LOOKED.names))
    takes_part = one.contents is not None and (len(texts) or one.corpus.dedup == "near")
    rows = get_table(lake.store, one.contents) if one.contents and takes_part else CONTENTS.empty_table()
    if one.corpus.dedup != "near":
        rows = rows.filter(pa.array(np.isin(numbers(rows["said"]), texts)))
    return Compared(one.corpus, True, rows.cast(CONTENTS))


def _left(side: Compared, found: Mapping[str, Found]) -> Compared:
    """Without what is refused already."""
    refused = pa.array(list(found[side.corpus.name].refused), pa.string())
    return side._replace(rows=side.rows.filter(pc.invert(pc.is_in(side.rows["key"], value_set=refused))))
