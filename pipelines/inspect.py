"""`tarsia inspect`: what a lake holds, read from its newest snapshot."""

from tarsia.builders.lake import Lake
from tarsia.builders.tables import get_table
from tarsia.schemas.lake import ExcludedSet, Repeats
from tarsia.schemas.model import Model


class Equals(Model):
    """Samples that say and show the same: as (corpus, id, key), in the order of corpora and keys."""

    content: str
    samples: tuple[tuple[str, str, str], ...]


class Duplicates(Model):
    """The samples of a lake that have an equal, counted and in groups, and the evaluation sets that are kept out."""

    repeats: tuple[Repeats, ...]
    groups: tuple[Equals, ...]
    excluded: tuple[ExcludedSet, ...]


def duplicates(lake: Lake) -> Duplicates:
    """The equal samples that the newest snapshot lists."""
    snapshot = lake.snapshot()
    groups: dict[str, list[tuple[str, str, str]]] = {}
    if snapshot.duplicates:
        table = get_table(lake.store, snapshot.duplicates)
        columns = (table[name].to_pylist() for name in ("content", "corpus", "id", "key"))
        for content, *sample in zip(*columns, strict=True):
            groups.setdefault(content, []).append((sample[0], sample[1], sample[2]))
    return Duplicates(
        repeats=snapshot.repeats,
        groups=tuple(Equals(content=content, samples=tuple(samples)) for content, samples in groups.items()),
        excluded=snapshot.excluded,
    )
