"""`tarsia ingest`: raw corpora in, shards in draw order and a truthful count out.

    survey                      the raw files of a corpus, and whether anything of them changed
    scan   some raw files   ->  slices of raw records, and who they are; large files are split before
    settle                      identities over the whole corpus (in the driver, 16 bytes a record)
    sort   a slice          ->  the slice in key order, understood, with a stamp of every record and its media
    compare                     what is refused since it stands elsewhere
    build  a leaf           ->  tar, index and text of the leaf; refusals with reasons
    publish                     quarantine, then the next snapshot, last

Each step has a file here by its name, and all of them learn of a corpus what `coming.py` lists. Scan and sort leave
their results under `work/`, removed at the end; built leaves stay recorded under `commits/`. A corpus whose files have
not changed since the newest snapshot is not read at all.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from tarsia.builders.duplicates import put_duplicates
from tarsia.builders.lake import Lake
from tarsia.builders.storage import Entry
from tarsia.builders.tables import get_table
from tarsia.builders.tombstones import all_of, state_of
from tarsia.pipelines.build import build
from tarsia.pipelines.coming import Coming, pieces
from tarsia.pipelines.commits import clear, forget
from tarsia.pipelines.compare import compare, read_sets
from tarsia.pipelines.fold import fold
from tarsia.pipelines.pool import Pool
from tarsia.pipelines.retry import retry as try_again
from tarsia.pipelines.scan import scan
from tarsia.pipelines.sort import sort
from tarsia.pipelines.survey import chosen, survey
from tarsia.schemas.corpus import Catalog, Corpus
from tarsia.schemas.errors import Drift, NotThere
from tarsia.schemas.identity import digest_of, draw_of
from tarsia.schemas.lake import CorpusState, ExcludedSet, Snapshot
from tarsia.schemas.model import Model
from tarsia.schemas.shard import Stored


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
        while round_:
            before = lake.numbers()
            try:
                done = _ingest(catalog, round_, lake, pool, reread=reread, retry=retry, quiet=quiet)
            except NotThere:
                if lake.numbers()[-1:] > before[-1:]:  # a twin has published, and cleared what both had under work/
                    continue
                raise
            reports |= {one.corpus: one for one in done}
            break
    return [reports[corpus.name] for corpus in corpora]


def _ingest(
    catalog: Catalog, corpora: Sequence[Corpus], lake: Lake, pool: Pool, *, reread: bool, retry: bool, quiet: bool
) -> list[Ingested]:
    newest = lake.snapshot() if lake.numbers() else Snapshot(number=0)
    corpora = [corpus.model_copy(update={"root": lake.url}) if corpus.of else corpus for corpus in corpora]
    names = [corpus.name for corpus in corpora]
    honoured = state_of(lake.store, names)
    gone = {name: all_of(lake.store, name, _tombstones(newest, name), honoured) for name in names}
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
            plans.append(Coming(corpus, source, files, _work(corpus, source, gone[corpus.name]), gone[corpus.name]))
    for plan in plans:
        if plan.corpus.name in good:
            clear(lake.store, plan.work)
        elif reread:
            clear(lake.store, f"{plan.work}/sort", f"{plan.work}/fold")
    scan(plans, lake, pool, quiet=quiet)
    sort(plans, lake, pool, quiet=quiet)
    fold(plans, lake, pool, quiet=quiet)
    for plan in plans:
        plan.pieces = list(pieces(plan, lake))
        _forget(plan, good.get(plan.corpus.name, ()), lake)
    coming = {plan.corpus.name: plan for plan in plans}
    order = [corpus.name for corpus in catalog.corpora if corpora[0].of or not corpus.of]
    sides = [coming.get(name) or standing[name] for name in order if name in coming or name in standing]
    found = compare(sides, excluded, lake, pool, quiet=quiet) if plans else {}
    written = {}
    for state, count in build(plans, found, lake, pool, quiet=quiet):
        compared = _compared(state.corpus, catalog, standing, excluded)
        standing[state.corpus.name] = state.model_copy(update={"compared": compared or ""})
        written[state.corpus.name] = count
    states = [_as_told(standing[corpus.name]) for corpus in corpora]
    published = lake.publish(lambda snapshot: _with(snapshot, states, excluded, honoured, lake))
    clear(lake.store, *(f"work/{corpus.name}" for corpus in (*corpora, *catalog.exclude)))
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
            plans.append(Coming(corpus, source, files, f"work/{corpus.name}/{source[:16]}", is_compared=True))
            clear(lake.store, plans[-1].work)
    scan(plans, lake, pool, quiet=quiet)
    sort(plans, lake, pool, quiet=quiet)
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


def _forget(plan: Coming, good: Sequence[str], lake: Lake) -> None:
    """Takes back what is recorded of the leaves that hold records which became good: the rules were others then."""
    draws_ = np.array([draw_of(key) for key in good], dtype=np.uint64)
    for piece in plan.pieces if len(good) else ():
        if np.isin(piece.draws, draws_).any():
            for folder in ("corpora", "looks"):
                for entry in list(lake.store.list(f"commits/{folder}/{plan.corpus.name}")):
                    if entry.path.rpartition("/")[2].startswith(f"{piece.leaf}-"):
                        lake.store.delete(entry.path)


def _tombstones(snapshot: Snapshot, name: str) -> Stored | None:
    state = snapshot.corpus(name)
    return state.tombstones if state else None


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
    """How many records that were in quarantine are samples now. What left the raw data is not among them."""
    refused, still, samples = (
        set(get_table(lake.store, one, ("key",))["key"].to_pylist()) if one else set()
        for one in (before.quarantine, now.quarantine, now.contents)
    )
    return len(refused - still) if before.source == now.source else len(refused & samples)
