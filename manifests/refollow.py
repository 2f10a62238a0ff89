"""A repaired plan beside the one that it follows, in SQL: what it says to have kept it has kept, and moved no more."""

import duckdb
import orjson
from pydantic import ValidationError

from tarsia.builders.storage import Store
from tarsia.builders.tables import get_table
from tarsia.manifests.claimed import Claimed
from tarsia.schemas.errors import Corrupt
from tarsia.schemas.identity import digest_of
from tarsia.schemas.manifest import SAMPLES, Manifest, parent_path

_WHAT = "key, copy, tokens, tiles, frames, audio_tokens, checksum, speech_checksum, spoken"
_COMPARED = f"""
    with was as (select context, list(row({_WHAT}) order by slot) as held from parents group by context),
    now as (select context, list(row({_WHAT}) order by slot) as held from samples group by context),
    gone as (select distinct context from (select context, {_WHAT} from parents) p
             where not exists (select 1 from samples s where s.key = p.key and s.copy = p.copy
             and (s.tokens, s.checksum, s.spoken) = (p.tokens, p.checksum, p.spoken)
             and s.speech_checksum is not distinct from p.speech_checksum))
    select count(*) filter (was.held is not distinct from now.held),
           count(*) filter (was.held is distinct from now.held and was.context not in (from gone))
    from was left join now using (context)"""


def check_repair(stage: Claimed, store: Store) -> None:
    """Compares a repaired plan, if it is one, with its parent, whose manifest and tables the lake keeps."""
    manifest, book, told = stage.manifest, stage.book, stage.manifest.repaired
    if told is None:
        return
    where = f"{stage.where} repaired"
    parent = parent_of(store, manifest, told.parents[-1])
    before = parent.repaired
    book.equal(where, "digest of the parent", told.parents[-1], digest_of(parent.model_dump(mode="json")))
    book.equal(where, "parents before it", told.parents[:-1], before.parents if before else ())
    book.equal(where, "contexts of the first", told.first, before.first if before else parent.contexts)
    book.equal(where, "contexts of the parent", told.before, parent.contexts)
    for name in ("stage", "seed", "context", "pool", "vocabulary", "prompts"):
        book.equal(where, f"{name} of the parent", getattr(parent, name), getattr(manifest, name))
    book.check(where, manifest.contexts >= parent.contexts, "a repair never has fewer contexts than its parent")
    with duckdb.connect() as sql:
        for name, one in ("samples", manifest), ("parents", parent):
            sql.register(name, get_table(store, one.tables["samples"], verify=True).cast(SAMPLES))
        ((kept, needless),) = sql.execute(_COMPARED).fetchall()
    book.equal(where, "contexts kept", told.kept, kept)
    if manifest.contexts > parent.contexts and manifest.capacity == parent.capacity:
        book.equal(where, "contexts that a repair moved without need", 0, needless)


def parent_of(store: Store, manifest: Manifest, digest: str) -> Manifest:
    """A manifest that this one repaired, by its digest."""
    path = parent_path(manifest.model, manifest.name, digest)
    try:
        return Manifest.model_validate(orjson.loads(store.read(path)))
    except (ValidationError, orjson.JSONDecodeError) as error:
        raise Corrupt(f"{store.url}/{path} cannot be read: {error}") from error
