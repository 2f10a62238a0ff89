"""Whether the samples of a stage are those that its recipe asks for, recounted from the lake that it was planned from.

Own reading of takes and amounts, own arithmetic, own SQL: the first take in the list that admits a sample has it; of
those, in the order of the circle from the seed's starting point on, exactly the asked ones are there, each as often as
asked.
"""

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import pyarrow as pa

from tarsia.manifests.findings import Book, StageTables
from tarsia.schemas.identity import start
from tarsia.schemas.manifest import Ask
from tarsia.schemas.recipe import Take

_PLACES = """places as (select i.key, i.seconds, i.lasts, i.wanting, i.questions,
                        row_number() over (order by i.draw < $3::ubigint, i.draw, i.key) - 1 as place
                        from lasting i join belongs b on b.corpus = i.corpus and b.lang = i.language
                        and b.modality = i.modality where i.corpus = $1 and b.take = $2)"""


def register_takes(stage: StageTables) -> None:
    """The table `belongs`: to which take the samples of a corpus, a language and a modality belong."""
    takes, rows = stage.manifest.stage.takes, []
    groups = stage.sql.execute("select distinct corpus, language, modality from lake_index order by all").fetchall()
    entries = {state.corpus.name: state.corpus for state in stage.source.corpora}
    for corpus, language, modality in groups:
        entry = entries[corpus]
        for number, take in enumerate(takes):
            named = take.kind == entry.kind and _among(take.corpus, [corpus]) and _among(take.tag, entry.tags)
            if named and _among(take.language, [language]) and _among(take.modality, [modality]):
                rows.append((corpus, language, modality, number))
                break
    columns = list(zip(*rows, strict=True)) or [(), (), (), ()]
    types = (pa.string(), pa.string(), pa.string(), pa.int32())
    arrays = [pa.array(list(column), kind) for column, kind in zip(columns, types, strict=True)]
    stage.sql.register("belongs", pa.table(arrays, ["corpus", "lang", "modality", "take"]))


def _among(wanted: Sequence[str], there: Sequence[str]) -> bool:
    return not wanted or bool(set(wanted) & set(there))


def check_selection(stage: StageTables) -> None:
    """The selected samples are those of the arc, as many and as often as asked."""
    manifest, book = stage.manifest, stage.book
    takes = manifest.stage.takes
    entries = {state.corpus.name: state.corpus for state in stage.source.corpora}
    expected = set(stage.sql.execute("select distinct corpus, take from belongs").fetchall())
    filled = {corpus for (corpus,) in stage.sql.execute("select distinct corpus from lake_index").fetchall()}
    for name in entries.keys() - filled:  # an empty corpus stands under the first take that names it
        wanting = [number for number, take in enumerate(takes) if take.wants(entries[name])]
        expected |= {(name, number) for number in wanting[:1]}
    claimed = sorted((ask.corpus, ask.take) for ask in manifest.asks)
    book.equal(stage.where, "corpora asked", claimed, sorted(expected))
    stage.none(
        """select c.key from chosen c left join belongs b on b.corpus = c.corpus and b.lang = c.lang
           and b.modality = c.modality where b.take is null""",
        "samples that no take asks for",
    )
    asks = [ask for ask in manifest.asks if (ask.corpus, ask.take) in expected]
    for number, take in enumerate(takes):
        _check_take(stage, take, [ask for ask in asks if ask.take == number])


def _check_take(stage: StageTables, take: Take, asks: Sequence[Ask]) -> None:
    manifest, book, amount = stage.manifest, stage.book, take.amount
    sizes, unsaid = dict[str, Any](), dict[str, int]()
    for ask in asks:
        where, circle = f"{stage.where} {ask.corpus}", (ask.corpus, ask.take, str(start(manifest.seed)))
        available, questions, seconds, wanting = stage.one(
            f"""with {_PLACES} select count(*), coalesce(sum(questions), 0)::bigint, coalesce(sum(seconds), 0),
                count(*) filter (wanting) from places""",
            *circle,
        )
        book.equal(where, "kind", ask.kind, take.kind)
        book.equal(where, "amount", ask.amount, str(amount))
        book.equal(where, "samples in the lake", ask.available, available)
        book.equal(where, "seconds in the lake", ask.available_seconds, float(seconds))
        counted = (questions if amount.unit == "questions" else None, ask.available_tokens)
        book.equal(where, "questions in the lake", ask.available_questions, counted[0])
        book.check(where, (ask.available_tokens is not None) == (amount.unit == "tokens"), "tokens in the lake")
        asked = {"samples": ask.samples, "questions": ask.questions, "h": ask.seconds, "tokens": ask.tokens}
        unit = "samples" if amount.unit == "%" else amount.unit
        book.equal(where, "units asked in", [unit], [name for name, value in asked.items() if value is not None])
        size = {"h": float(seconds), "questions": questions, "tokens": ask.available_tokens}.get(unit, available)
        sizes[ask.corpus] = (asked[unit] or 0, size or 0)
        unsaid[ask.corpus] = wanting
        selected = stage.one("select count(*) from chosen join belongs using (corpus, lang, modality) "
                             "where corpus = $1 and take = $2", ask.corpus, ask.take)[0]  # fmt: skip
        begin = 0
        if amount.unit == "%":
            begin = round(amount.start * available / 100)
            wanted = round((amount.start + amount.number) * available / 100) - begin
            wanted = min(wanted, int(take.cap.number)) if take.cap else wanted
            book.equal(where, "asked", ask.samples, wanted)
        elif unit == "samples":
            wanted = min(ask.samples or 0, available)
        else:
            wanted = selected
            _check_reach(stage, where, circle, unit, asked[unit] or 0, selected, available)
        if available:
            book.equal(where, "selected", wanted, selected)
        _check_arc(stage, where, circle, begin, selected, max(1, available))
    if amount.unit != "%":
        _check_division(book, stage.where, take, sizes, unsaid)


def _check_arc(stage: StageTables, where: str, circle: tuple[Any, ...], begin: int, selected: int, round_: int) -> None:
    """Place `begin` and those after it, round again after the last; copies numbered as they come."""
    outside, wrong = stage.one(
        f"""with {_PLACES}, mine as (select key, count(*) as n, count(distinct copy) as copies, min(copy) as low,
                                     max(copy) as high from chosen join belongs using (corpus, lang, modality)
                                     where corpus = $1 and take = $2 group by key),
            due as (select coalesce(n, 0) as n, copies, low, high, coalesce(case
                    when $4 > 0 then (place >= $4 and place < $4 + $5)::bigint
                    else $5 // $6 + (place < $5 % $6)::bigint end, 0) as due from mine full join places using (key))
            select count(*) filter (n > 0 and due = 0),
                   count(*) filter (due > 0 and (n <> due or low <> 0 or high <> n - 1 or copies <> n)) from due""",
        *circle, begin, selected, round_,
    )  # fmt: skip
    stage.book.equal(where, "selected samples outside the arc", 0, outside)
    stage.book.equal(where, "samples of the arc that are not there as often as asked", 0, wrong)


def _check_reach(
    stage: StageTables, where: str, circle: tuple[Any, ...], unit: str, asked: float, selected: int, available: int
) -> None:
    """As many samples as it takes to reach what was asked, and not one more."""
    carried = "0"
    if unit == "tokens" and stage.manifest.context.prompt == "sample":
        carried = "(select cost from own_prompts where prompt = seen(c.modality))"
    measure = {"h": "p.lasts", "questions": "p.questions", "tokens": f"(c.tokens - {carried})"}[unit]
    joined = "places p left join chosen c on c.key = p.key and c.corpus = $1" if unit == "tokens" else "places p"
    reached, before = stage.one(
        f"""with {_PLACES} select coalesce(sum({measure}) filter (place < $4), 0)::double,
                                  coalesce(sum({measure}) filter (place < $4 - 1), 0)::double from {joined}""",
        *circle, selected,
    )  # fmt: skip
    name = "seconds" if unit == "h" else unit
    enough = reached >= asked - 1e-6 or selected == available
    stage.book.check(where, enough, f"{name} asked {asked}, selected {reached}")
    stage.book.check(where, not selected or before < asked + 1e-6, f"{name} asked {asked}, {before} were enough")


def _check_division(book: Book, where: str, take: Take, sizes: dict[str, Any], unsaid: dict[str, int]) -> None:
    """Each corpus was asked for its part: of hours in proportion, of what is counted as Sainte-Laguë divides.

    Hours that no corpus has ready are asked of those with samples that voices can make, by the number of these.
    """
    whole, makeable = sum(size for _, size in sizes.values()), sum(unsaid.values())
    if take.amount.unit == "h":
        wanted = float(take.amount.number * 3600)
        for corpus, (asked, size) in sizes.items():
            if whole < wanted and makeable:
                share = size + (wanted - whole) * unsaid[corpus] / makeable
            else:
                share = wanted * size / whole if whole else 0.0
            book.equal(f"{where} {corpus}", "seconds asked", asked, share)
        return
    given = sum(asked for asked, _ in sizes.values())
    book.equal(where, f"{take.amount.unit} asked of all corpora", given, int(take.amount.number) if whole else 0)
    last = [Fraction(size, 2 * asked - 1) for asked, size in sizes.values() if asked > 0]
    following = [Fraction(size, 2 * asked + 1) for asked, size in sizes.values()]
    fair = not last or min(last) >= max(following)
    book.check(where, fair, f"{take}: {take.amount} not divided in proportion: {sizes}")


def register_scope(stage: StageTables) -> None:
    """Notes in `everyone` what was selected by shares without a range, for comparison with other stages."""
    manifest = stage.manifest
    ranged = [number for number, take in enumerate(manifest.stage.takes) if take.amount.start]
    stage.sql.execute(
        """insert into everyone
           with scopes as (select corpus, take, string_agg(lang || ' ' || modality, ', ' order by lang, modality)
                           as scope from belongs group by all)
           select distinct $1, $2, $3, corpus, scope, key from chosen join belongs using (corpus, lang, modality)
           join scopes using (corpus, take) where not list_contains($4::int[], take)""",
        [manifest.model, manifest.seed, manifest.name, ranged],
    )
