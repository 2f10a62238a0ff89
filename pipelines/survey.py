"""Which corpora of a catalog are meant, which raw files they have, and a digest that tells whether anything changed."""

from collections.abc import Sequence

from tarsia.builders.corpora import find
from tarsia.builders.lake import Lake
from tarsia.builders.storage import Entry, match, open_store
from tarsia.schemas.corpus import Catalog, Corpus
from tarsia.schemas.errors import BadCatalog, UnknownName
from tarsia.schemas.identity import digest_of
from tarsia.schemas.lake import FORMAT, ORDER, Snapshot


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
