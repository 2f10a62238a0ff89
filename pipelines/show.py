"""Reports for a terminal: plain aligned text, the same on every terminal and in every log."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any
from unicodedata import east_asian_width

from tarsia.manifests.audit import Audit
from tarsia.manifests.changes import Changes
from tarsia.manifests.difference import Change, Difference
from tarsia.manifests.lineage import Record
from tarsia.manifests.runs import RunAudit
from tarsia.manifests.stream import Batch
from tarsia.pipelines.check import Checked
from tarsia.pipelines.estimate import Estimate
from tarsia.pipelines.export import Export
from tarsia.pipelines.ingest import Ingested
from tarsia.pipelines.inspect import Duplicates
from tarsia.pipelines.prune import Pruned
from tarsia.pipelines.speak import Speech, Voiced
from tarsia.pipelines.takedown import Takedown
from tarsia.pipelines.told import Share, Spoken
from tarsia.schemas.manifest import Ask, Count, Manifest, Packed
from tarsia.schemas.sample import MADE


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Rows under a head; numbers to the right, with thousands apart."""
    cells = [list(head), *([_cell(value) for value in row] for row in rows)]
    numeric = [all(_is_number(row[number]) for row in cells[1:]) for number in range(len(head))]
    widths = [max(_width(row[number]) for row in cells) for number in range(len(head))]
    return "\n".join(
        "  ".join(
            " " * (width - _width(cell)) + cell if right else cell + " " * (width - _width(cell))
            for cell, width, right in zip(row, widths, numeric, strict=True)
        ).rstrip()
        for row in cells
    )


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.3f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _is_number(cell: str) -> bool:
    return not cell or cell.removeprefix("-")[:1].isdigit() or cell == "-"


def _width(cell: str) -> int:
    return sum(2 if east_asian_width(char) in "WF" else 1 for char in cell)


def ingested(reports: Sequence[Ingested]) -> str:
    """Records in, samples and refusals out, for each corpus."""
    rows = [
        (one.corpus, one.records, one.samples, sum(one.quarantined.values()), one.questions, one.shards,
         "unchanged" if one.unchanged else f"{one.written} written")
        for one in reports
    ]  # fmt: skip
    lines = [table(("corpus", "records", "samples", "quarantined", "questions", "shards", ""), rows)]
    for one in reports:
        lines += [f"{one.corpus}: {count} quarantined, {code}" for code, count in one.quarantined.items()]
        lines += [f"{one.corpus}: {count} {note}" for note, count in one.notes.items()]
        lines += [f"{one.corpus}: {one.mended} out of quarantine again"] * bool(one.mended)
        lines += [f"{one.corpus}: {one.equal_within:,} samples have an equal in it"] * bool(one.equal_within)
        lines += [f"{one.corpus}: {one.equal_across:,} samples have an equal elsewhere"] * bool(one.equal_across)
    records, samples = sum(one.records for one in reports), sum(one.samples for one in reports)
    refused, gone = sum(sum(one.quarantined.values()) for one in reports), sum(one.taken_down for one in reports)
    taken = f" + {gone:,} taken down" if gone else ""
    return "\n".join([*lines, f"{records:,} records = {samples:,} samples + {refused:,} quarantined{taken}"])


def taken_down(done: Takedown) -> str:
    """What was erased where, and what is left to do."""
    receipt, lines = done.receipt, []
    if receipt:
        rows = [(one.corpus, one.samples, one.quarantined) for one in receipt.records]
        lines.append(table(("taken down of", "samples", "from quarantine"), rows))
        written = ", ".join(f"{count:,} of {folder}" for folder, count in receipt.rewritten.items())
        lines.append(f"written anew: {written or 'nothing'}; clips erased: {receipt.clips:,}")
        lines += [f"forbidden from now on: {receipt.forbidden:,} digests"] * bool(receipt.forbidden)
        lines += [
            f"stage {name} still places it, in {contexts:,} contexts: plan it with --repair"
            for name, contexts in receipt.stages.items()
        ]
        lines += [f"packed tars that hold it: {len(receipt.packs):,}; pack again"] * bool(receipt.packs)
        lines.append(f"objects that hold it until the lake is pruned: {len(receipt.lying):,}")
        lines.append(f"receipt {receipt.number}")
    lines += [f"{done.known:,} were taken down before"] * bool(done.known)
    lines += ["all of it was taken down before"] * (receipt is None and not done.known)
    lines += [f"nothing is called {name}" for name in done.unknown]
    return "\n".join(lines)


def pruned(done: Pruned, *, dry_run: bool) -> str:
    """What went, and what still keeps something that was taken down."""
    rows = [(folder, count) for folder, count in done.objects.items()]
    lines = [table(("would go" if dry_run else "deleted", "objects"), rows)] if rows else ["nothing to delete"]
    lines.append(f"{done.bytes:,} bytes; snapshots kept: {', '.join(map(str, done.snapshots))}")
    lines += [
        f"{count:,} objects that hold what was taken down are kept: {name}"
        + ("; plan it with --repair, pack it again, then prune" if name.startswith("stage ") else "")
        for name, count in done.waiting.items()
    ]
    return "\n".join(lines)


def duplicates(found: Duplicates) -> str:
    """Equal samples, a paragraph for each group, and what was kept out."""
    lines = ["\n".join(f"{corpus}/{own}  {key}" for corpus, own, key in group.samples) + "\n" for group in found.groups]
    rows = [(one.corpus, one.within, one.across) for one in found.repeats]
    lines.append(table(("corpus", "equal in it", "equal elsewhere"), rows) if rows else "no two samples are equal")
    for one in found.excluded:
        unread = "".join(f", {count:,} unread ({code})" for code, count in one.unread.items())
        lines.append(f"kept out: {one.corpus.name}, {one.records:,} records{unread}")
    return "\n".join(lines)


def checked(reports: Sequence[Checked]) -> str:
    """The first records of each corpus, as they are understood."""
    lines = []
    for one in reports:
        if one.wrong:
            lines.append(f"{one.corpus}: {one.wrong}")
            continue
        lines.append(f"{one.corpus}: {one.files} {'file' if one.files == 1 else 'files'}; a record is {one.record}")
        lines += [f"  {rule}" for rule in one.rules]
        lines += [f"  {file} is in {said}" for file, said in one.encodings.items() if said != "utf-8"]
        for record in one.first:
            lines.append(f"  {record.file}  {record.id}")
            if record.sample is None:
                lines.append(f"    refused, {record.refused}")
                continue
            sample = record.sample
            media = [f"image {image.width}x{image.height}" for image in sample.images]
            media += [
                f"video of {video.length / video.fps:.1f} s, {len(video.frames)} frames" for video in sample.videos
            ]
            media += [f"audio of {audio.samples / audio.rate:.1f} s" for audio in sample.audios]
            lines += [f"    {', '.join((*media, *record.notes))}"] * bool(media)
            lines += [f"    {turn.speaker:>5}: {_short(turn.text)}" for turn in sample.conversations]
    return "\n".join(lines)


def _short(text: str, most: int = 90) -> str:
    line = " ⏎ ".join(text.splitlines())
    return line if len(line) <= most else line[: most - 1] + "…"


def spoken(speech: Speech) -> str:
    """Questions asked to be spoken, and what came of them; then what the voices did."""
    if not speech.questions:
        return "no stage of this recipe asks for speech"
    lines = [_questions(speech.questions), *_made(speech.questions)]
    if speech.voices:
        lines += ["", _voices(speech.voices)]
    lines += [
        f"voice '{one.voice}' stands out: {_share(one)} of its draws are refused, where {one.usual:.1%} is usual; "
        "check its reference clip and its transcript"
        for one in speech.voices
        if one.usual is not None
    ]
    pending: Counter[str] = Counter()
    for one in speech.questions:
        pending.update(one.pending)
    if pending:
        reasons = ", ".join(f"{code} {count:,}" for code, count in sorted(pending.items()))
        lines.append(f"{pending.total():,} questions are pending, their servers failed ({reasons}); run again to go on")
    return "\n".join(lines)


def _questions(reports: Sequence[Spoken]) -> str:
    """Asked, spoken and refused of every stage and corpus, and of every language where a corpus has several."""
    rows: list[Sequence[Any]] = []
    for one in reports:
        if len(one.languages) > 1:
            rows += [
                (one.stage, one.corpus, name, part.selected, "", *_counts(part), part.refused, part.missing)
                for name, part in one.languages.items()
            ]
        tongue = "all" if len(one.languages) > 1 else next(iter(one.languages), "-")
        refused = sum(one.refused.values())
        rows.append((one.stage, one.corpus, tongue, one.selected, one.asked, *_counts(one), refused, one.missing))
    totals = [sum(getattr(one, field) for one in reports) for field in ("selected", "asked", "speakable", "spoken")]
    totals += [sum(sum(one.refused.values()) for one in reports), sum(one.missing for one in reports)]
    head = ("stage", "corpus", "lang", "questions", "asked", "speakable", "spoken", "refused", "missing")
    return table(head, [*rows, ("", "all", "", *totals)])


def _made(reports: Sequence[Spoken]) -> list[str]:
    """Asked and made of noise and text-to-speech that had no sound, in samples and in hours."""
    rows: list[Sequence[Any]] = []
    for one in reports:
        if one.kind not in MADE:
            continue
        for name, part in one.languages.items() if len(one.languages) > 1 else ():
            rows.append((one.stage, one.kind.value, one.corpus, name, "", part.spoken, "", part.seconds / 3600))
        tongue = "all" if len(one.languages) > 1 else next(iter(one.languages), "-")
        asked = "-" if one.asked_seconds is None else one.asked_seconds / 3600
        rows.append((one.stage, one.kind.value, one.corpus, tongue, one.asked, one.spoken, asked, one.seconds / 3600))
    head = ("stage", "kind", "corpus", "lang", "samples asked", "made", "hours asked", "hours made")
    return ["", table(head, rows)] if rows else []


def _counts(one: Spoken | Share) -> tuple[int, int]:
    return one.speakable, one.spoken


def estimated(sums: Estimate) -> str:
    """What is missing, and what it would come to."""
    if not sums.questions:
        return "no stage of this recipe asks for speech"
    fields = ("texts", "characters", "hours", "working_hours", "bytes")
    rows = [(one.voice, *(getattr(one, field) for field in fields[:-1]), one.bytes / 1e9) for one in sums.voices]
    total = [sum(values) for values in zip(*(row[1:] for row in rows), strict=True)]
    head = ("voice", "texts", "characters", "hours of speech", "hours of a server", "GB")
    said = f"upper bounds; {sums.real_time_factor:g} s of work for each second of speech; GB of clips and sidecars"
    figures = [_questions(sums.questions), *_made(sums.questions)]
    return "\n".join([*figures, "", table(head, [*rows, ("all", *total)]), said])


def _voices(voices: Sequence[Voiced]) -> str:
    rows = [
        (one.voice, one.asked, one.accepted, one.hours,
         ", ".join(f"{reason} {count:,}" for reason, count in {**one.refused, **one.unwell}.items()))
        for one in voices
    ]  # fmt: skip
    return table(("voice", "draws", "clips", "hours", "of no use"), rows)


def _share(one: Voiced) -> str:
    refused = sum(one.refused.values())
    return f"{refused / max(1, refused + one.accepted):.1%}"


def planned(manifests: Sequence[Manifest]) -> str:
    """Each stage in a line, then what a reader should know of it."""
    rows = [
        (one.name, one.stage.title, *_sums(one.counts, "selected", "placed", "placed_questions", "placed_tokens"),
         sum(count.placed_seconds for count in one.counts) / 3600, one.contexts, one.bound,
         f"{one.fill:.1%}" if one.contexts else "-",
         f"{one.padding:.2%}" if one.padding is not None else "-",
         f"{one.deviation.distance:.2%}" if one.deviation else "-")
        for one in manifests
    ]  # fmt: skip
    head = ("stage", "title", "selected", "placed", "questions", "tokens", "hours", "contexts", "bound", "fill",
            "padding", "deviation")  # fmt: skip
    return "\n".join([table(head, rows), *(f"{one.name}: {note}" for one in manifests for note in _notes(one))])


def _notes(manifest: Manifest) -> Iterator[str]:
    """Where the lake has less than was asked, and where lengths keep contexts from being filled."""
    context, pack = manifest.context, manifest.stage.pack
    if one := manifest.repaired:
        fresh = manifest.contexts - one.kept
        yield f"repaired: {one.kept:,} of {one.before:,} contexts stay as they were, {fresh:,} are new"
    for number, take in enumerate(manifest.stage.takes):
        asks, unit = [ask for ask in manifest.asks if ask.take == number], take.amount.unit
        there = {
            "h": max(sum(ask.available_seconds for ask in asks), _made_seconds(manifest, number)) / 3600,
            "samples": sum(ask.available for ask in asks),
            "questions": sum(ask.available_questions or 0 for ask in asks),
            "tokens": sum(ask.available_tokens or 0 for ask in asks),
        }.get(unit)
        if not asks:
            yield f"take {take}: the lake has none"
        elif there is not None and there < take.amount.number:
            has = f"{there:,.3f}h" if unit == "h" else f"{there:,} {unit}"
            yield f"take {take}: {take.amount} asked, the lake has {has}; all of it is taken, once"
    selected, placed = _sums(manifest.counts, "selected", "placed")
    if placed < selected:
        where = (
            f"reasons in {manifest.tables['unplaced'].path}" if manifest.tables else "a plan that is written says why"
        )
        yield f"{selected - placed:,} of {selected:,} selected samples are not placed; {where}"
    images = [count for count in manifest.counts if "image" in count.modality]
    selected, placed = _sums(images, "selected", "placed")
    if 2 * placed < selected and not (pack and pack.seconds):
        yield (
            f"only {placed:,} of {selected:,} samples with images fit into a context of {context.tokens:,} tokens; "
            f"set fewer tiles (now {context.tiles}) or a cap for a sample (sample_tiles)"
        )
    yield from _unheard(manifest)
    if manifest.binding == "halves":
        fewer = f"; with fewer tiles (now {context.tiles}) two images could share one" if placed else ""
        yield f"so many samples take more than half a context that no packing fills them{fewer}"
    if manifest.binding == "samples" and pack:
        yield f"the cap of {pack.samples:,} samples a batch sets the number of batches, not the seconds"
    if manifest.binding == "units" and pack:
        yield f"the cap of {pack.tiles} tiles a context sets the number of contexts, not the tokens"
    elif pack and pack.tiles and manifest.contexts > max(1000, 1.001 * manifest.bound):
        more = manifest.contexts / manifest.bound - 1
        yield f"with a cap of {pack.tiles} tiles a context there are {more:.1%} more contexts than the tokens need"


def _unheard(manifest: Manifest) -> Iterator[str]:
    """Why fewer questions are heard than were asked."""
    short = [
        (ask, _sums(counts, "selected_questions", "speakable", "refused", "pending", "spoken"))
        for ask in manifest.asks
        if (counts := [one for one in manifest.counts if manifest.ask_of(one) == ask])
        and _sums(counts, "spoken")[0] < (ask.spoken or 0)
    ]
    if short:
        questions, speakable, refused, pending, spoken = map(sum, zip(*(sums for _, sums in short), strict=True))
        asks = sum(ask.spoken or 0 for ask, _ in short)
        corpora = ", ".join(ask.corpus for ask, _ in short)
        yield (
            f"of {corpora} {spoken:,} questions are heard where {asks:,} were asked: of {questions:,}, "
            f"{questions - speakable:,} are not to be spoken, {refused:,} were refused, {pending:,} wait"
        )


def _made_seconds(manifest: Manifest, take: int) -> float:
    """Seconds that a take selected, where voices made some of them."""
    mine = [(count, ask) for count in manifest.counts if (ask := manifest.ask_of(count)) and ask.take == take]
    return sum(count.selected_seconds for count, _ in mine) if any(ask.spoken for _, ask in mine) else 0.0


def _sums(counts: Iterable[Count], *names: str) -> list[int]:
    everything = list(counts)
    return [sum(getattr(count, name) for count in everything) for name in names]


def asked(manifests: Sequence[Manifest]) -> str:
    """Asked, selected and placed of every stage, kind, corpus, language and modality."""
    rows: list[Sequence[Any]] = []
    for manifest in manifests:
        for ask in manifest.asks:
            mine = [count for count in manifest.counts if manifest.ask_of(count) == ask]
            for language, modality in sorted({(one.language, one.modality) for one in mine}) or [("-", "-")]:
                counts = [one for one in mine if (one.language, one.modality) == (language, modality)]
                heard = f"{_sums(counts, 'spoken')[0]} of {ask.spoken}" if ask.spoken is not None else "-"
                seconds = sum(one.placed_seconds for one in counts)
                rows.append(
                    (manifest.name, ask.kind.value, ask.corpus, language, modality, _asked(ask),
                     *_sums(counts, "selected", "placed", "placed_questions", "placed_tokens"),
                     f"{seconds:,.1f}", seconds / 3600, heard)
                )  # fmt: skip
    head = ("stage", "kind", "corpus", "lang", "modality", "asked", "selected", "placed", "questions", "tokens",
            "seconds", "hours", "spoken")  # fmt: skip
    return table(head, rows)


def mixed(manifests: Sequence[Manifest]) -> str:
    """What each stage is made of, over all corpora: by kind, modality and language, with the share of its tokens."""
    rows: list[Sequence[Any]] = []
    fields = ("selected", "placed", "placed_questions", "placed_tokens")
    for manifest in manifests:
        whole = _sums(manifest.counts, "placed_tokens")[0]
        groups: dict[tuple[str, str, str], list[Count]] = {}
        for count in manifest.counts:
            groups.setdefault((count.kind.value, count.modality, count.language), []).append(count)
        for group, mine in (*sorted(groups.items()), (("all", "", ""), manifest.counts)):
            sums = _sums(mine, *fields)
            share = f"{sums[-1] / whole:.2%}" if whole else "-"
            seconds, (heard,) = sum(count.placed_seconds for count in mine), _sums(mine, "placed_spoken")
            rows.append((manifest.name, *group, *sums, share, seconds / 3600, heard))
    head = ("stage", "kind", "modality", "lang", "selected", "placed", "questions", "tokens", "share", "hours", "heard")
    return table(head, rows)


def audited(manifests: Sequence[Manifest], result: Audit) -> str:
    """What was asked and what came of it; then what did not agree."""
    findings = [f"DISAGREES  {finding.where}: {finding.what}" for finding in result.findings]
    verdict = f"{result.checks:,} checks, " + (f"{len(findings)} disagree" if findings else "all agree")
    plans = {f"{one.model}/{one.name}": one for one in manifests}
    stages = table(
        ("stage", "samples", "contexts", "fill", "of", "longest", "room"),
        [
            (one.stage, one.samples, one.contexts, *_filled(plans[one.stage]), one.longest, one.room or "-")
            for one in result.stages
        ],
    )
    rows = [(one.stage, one.other, one.samples, "all of one" if one.nested else "") for one in result.shared
            if one.samples]  # fmt: skip
    shared = ["", table(("stage", "and", "samples in both", "nested"), rows)] if rows else []
    return "\n".join([asked(manifests), "", mixed(manifests), "", stages, *shared, *findings, verdict])


def _filled(manifest: Manifest) -> tuple[str, str]:
    """How full what samples share is, and of what that is a share: tokens, or seconds of sound."""
    pack = manifest.stage.pack
    if pack is None:
        return "-", "one sample each"
    return f"{manifest.fill:.1%}", f"{pack.seconds:g} s" if pack.seconds else f"{manifest.capacity:,} tokens"


def audited_runs(result: RunAudit) -> str:
    """What each run was handed, of how much that was promised; then what did not agree."""
    rows: list[Sequence[Any]] = []
    for run in result.runs:
        for one in run.figures:
            rows.append(
                (run.stage, one.kind, one.corpus, one.language, one.modality, one.samples, one.promised_samples,
                 one.questions, one.tokens, one.promised_tokens, one.microseconds / 3.6e9)
            )  # fmt: skip
    head = ("stage", "kind", "corpus", "lang", "modality", "samples", "promised", "questions", "tokens", "promised",
            "hours")  # fmt: skip
    lines = [table(head, rows)]
    for run in result.runs:
        times = "epoch" if run.epochs == 1 else "epochs"
        repaired = f", under {run.manifests} manifests" if run.manifests > 1 else ""
        lines.append(
            f"{run.stage}: {run.contexts:,} of {run.promised:,} contexts of {run.epochs} {times} by step {run.step:,}"
            f"{repaired}"
        )
    lines += [f"DISAGREES  {finding.where}: {finding.what}" for finding in result.findings]
    verdict = f"{len(result.findings)} disagree" if result.findings else "all agree"
    return "\n".join([*lines, f"{result.checks:,} checks, {verdict}"])


def _asked(ask: Ask) -> str:
    if ask.seconds is not None and ask.spoken:
        return f"{ask.seconds / 3600:.3f}h to be made of {ask.amount}"
    if ask.seconds is not None:
        return f"{ask.amount} of {ask.available_seconds / 3600:.3f}h"
    counted = ask.available_questions if ask.questions is not None else ask.available_tokens
    return f"{ask.amount} of {ask.available if counted is None else counted}"


def packed(stages: dict[str, list[Packed]]) -> str:
    """The packed shards of each stage."""
    rows = [
        (stage, sum(one.contexts for one in shards), len(shards), sum(one.objects[0].bytes for one in shards) / 1e6)
        for stage, shards in stages.items()
    ]
    return table(("stage", "contexts", "shards", "MB"), rows)


def exported(made: Export, place: str) -> str:
    """What was written of each corpus, and what could not be said."""
    rows = [
        (one.corpus, one.kind.value, one.samples, one.questions, one.heard, sum(one.left_out.values()), one.licence)
        for one in made.corpora
    ]
    lines = [table(("corpus", "kind", "samples", "questions", "heard", "left out", "licence"), rows)]
    lines += [
        f"{one.corpus}: {count:,} left out, {reason}" for one in made.corpora for reason, count in one.left_out.items()
    ]
    written = made.placed - made.left_out
    lines.append(
        f"{made.placed:,} samples placed = {written:,} in {made.records:,} records + {made.left_out:,} left out"
    )
    lines.append(f"how to train on it: {place.rstrip('/')}/{made.stage}/README.md")
    return "\n".join(lines)


def differences(found: Sequence[Difference]) -> str:
    """What changes of each stage: settings, then samples of each corpus, then contexts."""
    blocks = ["\n".join(_difference(one)) for one in found]
    long = ["\n" in block for block in blocks]
    ends = ["\n\n" if one or other else "\n" for one, other in pairwise(long)]
    return "".join(block + end for block, end in zip(blocks, [*ends, ""], strict=True))


def _difference(one: Difference) -> Iterator[str]:
    against = f" against {one.against}" if one.against else "" if one.before else ", not planned before"
    moved = [change for change in one.corpora if change.changed or change.added or change.removed or change.waiting]
    if one.before and not moved and one.contexts_after == one.in_place == one.contexts_before:
        yield f"{one.stage}{against}: the same samples in the same contexts"
        yield from (f"  {said}" for said in one.settings)
        return
    yield f"{one.stage}{against}"
    yield from (f"  {said}" for said in one.settings)
    if one.lake:
        yield "  the lake holds something else of what the stage sees"
    rows: list[Sequence[Any]] = [_moved(change) for change in moved]
    if len(moved) > 1:
        numbers = [sum(values) for values in zip(*(row[1:] for row in rows), strict=True)]
        rows.append(("all", *numbers))
    if moved:
        head = (
            "corpus",
            "kept",
            "changed",
            "in",
            "out",
            "tokens",
            "after",
            "hours",
            "after",
            "heard",
            "after",
            "waiting",
        )
        yield table(head, rows)
    same = len(one.corpora) - len(moved)
    if same:
        yield f"{same} {'corpus' if same == 1 else 'corpora'} as before"
    new = one.contexts_after - one.kept
    yield (
        f"contexts: {one.contexts_before:,} before, {one.contexts_after:,} after; {one.kept:,} hold what they held, "
        f"{one.in_place:,} under their number; {new:,} new, of {one.bytes / 1e6:,.1f} MB"
    )
    if one.unplaced_before or one.unplaced_after:
        yield f"selected but not placed: {one.unplaced_before:,} before, {one.unplaced_after:,} after"
    if waiting := sum(change.waiting for change in one.corpora):
        yield f"{waiting:,} questions wait for a voice first (tarsia speak); they count as text here"


def _moved(one: Change) -> Sequence[Any]:
    before, after = one.before, one.after
    return (one.corpus, one.kept, one.changed, one.added, one.removed, before.tokens, after.tokens,
            before.seconds / 3600, after.seconds / 3600, before.spoken, after.spoken, one.waiting)  # fmt: skip


def changed(found: Changes) -> str:
    """What changed in a lake: records of each corpus, speech of each pool."""
    lines = []
    if found.corpora:
        rows = [
            (one.corpus, one.presence, *one.samples, one.added, one.removed, one.edited, one.rewritten, one.taken_down,
             sum(one.quarantined.values()), one.shards)
            for one in found.corpora
        ]  # fmt: skip
        head = (
            "corpus",
            "",
            "samples",
            "after",
            "in",
            "out",
            "edited",
            "rewritten",
            "taken down",
            "quarantined",
            "shards",
        )
        lines.append(table(head, rows))
    lines += [f"{one.corpus}: {said}" for one in found.corpora for said in one.entry]
    lines += [
        f"{one.corpus}: {abs(count):,} {'more' if count > 0 else 'fewer'} quarantined, {code}"
        for one in found.corpora
        for code, count in one.quarantined.items()
    ]
    if found.speech:
        spoken = [
            (one.pool, one.corpus, one.added, one.removed, one.respoken, one.refused, one.shards)
            for one in found.speech
        ]
        lines.append(table(("voices", "corpus", "clips in", "out", "respoken", "refused", "shards"), spoken))
    lines.append(f"snapshots {found.before} and {found.after}: {found.same:,} corpora the same")
    return "\n".join(lines)


def batch(one: Batch) -> str:
    """One batch of contexts: what a trainer is handed."""
    lines = []
    for context in one.contexts:
        lines.append(f"context {context.number}: {context.tokens:,} tokens, {context.prompt} prompt")
        rows = [
            (slot, streamed.sample.corpus, streamed.sample.language, streamed.sample.modality, streamed.tokens,
             len(streamed.heard), sum(map(len, streamed.media.values())) + sum(map(len, streamed.heard.values())))
            for slot, streamed in enumerate(context.samples)
        ]  # fmt: skip
        lines.append(table(("slot", "corpus", "lang", "modality", "tokens", "heard", "bytes"), rows))
    return "\n".join([*lines, f"state after it: {one.state}"])


def batch_fields(one: Batch) -> dict[str, Any]:
    """The same for a program."""
    contexts = [
        {
            "context": context.number,
            "prompt": context.prompt,
            "tokens": context.tokens,
            "samples": [
                {
                    "key": streamed.sample.key,
                    "corpus": streamed.sample.corpus,
                    "modality": streamed.sample.modality,
                    "tokens": streamed.tokens,
                    "heard": sorted(streamed.heard),
                    "members": {name: len(data) for name, data in streamed.media.items()},
                }
                for streamed in context.samples
            ],
        }
        for context in one.contexts
    ]
    return {"contexts": contexts, "state": one.state}


def records(found: Sequence[Record]) -> str:
    """Where records came from, where they lie and what trains on them."""
    return "\n\n".join("\n".join(_record(one)) for one in found)


def _record(record: Record) -> Iterator[str]:
    origin = record.origin
    yield f"{record.corpus} {origin.id if origin else '?'}  key {record.key}"
    if origin and origin.file:
        span = "" if origin.begin is None else f" bytes {origin.begin} to {origin.end}"
        yield f"  from {origin.file}{span}"
    if record.quarantined:
        yield f"  in quarantine: {record.quarantined}"
    if record.tar:
        yield f"  in {record.tar}, {record.length} bytes from byte {record.offset}"
    for one in record.utterances:
        if one.refused:
            yield f"  {one.pool}, question {one.turn}: refused, {one.refused}"
            continue
        proof = "" if one.heard is None else f", heard: '{_short(one.heard)}', {one.missed:.1%} missed"
        yield f"  {one.pool}, question {one.turn}: {one.voice} says '{_short(one.spoken)}', {one.seconds:.2f} s{proof}"
    for place in record.places:
        where = (
            f"context {place.context}, slot {place.slot}" if place.unplaced is None else f"in none: {place.unplaced}"
        )
        again = f", copy {place.copy_number}" if place.copy_number else ""
        heard = f", heard: {', '.join(map(str, place.spoken))}" if place.spoken else ""
        yield f"  {place.stage}: {where}{again}, {place.tokens} tokens{heard}"
    if record.tar and not record.places:
        yield "  in no stage"
