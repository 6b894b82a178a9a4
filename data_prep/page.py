"""The report as one HTML file that needs nothing else: figures first, then the worst of each kind with their pictures."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from html import escape
from typing import Any

from data_prep.page_parts import bars, columns, image, table, tiles
from data_prep.page_style import STYLE
from mae_vlm.data.sources.base import Source

Figure = Callable[[dict[str, Any]], str]  # a row of the report as HTML

_SHOWN = 12  # pictures or pairs of each kind
_LINES = 40  # rows of a table
_ODD = {
    "blank": ("Of one colour", "Every channel deviates by less than 2 of 255 levels. Nothing can be learned from them."),
    "tiny": ("Tiny", "The short side is under 16 pixels."),
    "huge": (
        "Huge",
        "More than 25 million pixels: slow to decode. <code>python -m data_prep shards SRC DST --short-side 256</code> shrinks them.",
    ),
    "elongated": ("Elongated", "One side is over 4 times the other: a crop shows little of them."),
}
_DUPLICATES = {
    "leak": (
        "In train and in validation",
        "The same picture is learned and validated with: validation looks better than it is. Remove one of each.",
    ),
    "other_label": ("Same picture, other label", "Where the two are one picture, at least one of the labels is wrong."),
    "": ("Other duplicates", "They count double in training. Frames of one video belong here too."),
}


def page(report: dict[str, Any], parts: dict[str, Source], value_range: tuple[float, float] | None = None) -> str:
    """The whole page; pictures are read again from the sources and stand in it as data URIs."""
    source = escape(report["source"]) + (f" with {escape(report['val'])}" if report["val"] else "")
    figure = partial(_figure, parts, value_range)
    sections = [_duplicates(report, figure), *(_odd(name, report, figure) for name in _ODD), _unreadable(report), _annotations(report)]
    body = "".join(sections) + "".join(_part(name, part) for name, part in report["parts"].items())
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>data_prep check: {source}</title><style>{STYLE}</style></head><body><main><h1>Check of {source}</h1>"
        f"<p>Read as format {escape(report['format'])}. All figures are also in report.json, with the lists in full.</p>"
        f"{tiles(report['summary'])}{body}</main></body></html>\n"
    )


def _duplicates(report: dict[str, Any], figure: Figure) -> str:
    kinds: dict[str, list[dict[str, Any]]] = {kind: [] for kind in _DUPLICATES}
    for pair in report["duplicates"]:
        kinds[next(kind for kind in _DUPLICATES if not kind or pair[kind])].append(pair)
    text = ""
    for kind, pairs in kinds.items():
        title, advice = _DUPLICATES[kind]
        cards = "".join(_pair(pair, figure) for pair in pairs[:_SHOWN])
        text += _section(title, advice, f'<div class="grid">{cards}</div>', len(pairs), _SHOWN) if pairs else ""
    return text


def _pair(pair: dict[str, Any], figure: Figure) -> str:
    tags = [("bad", "same bytes")] if pair["same_bytes"] else [("", f"likeness {pair['likeness']:.3f}")]
    tags += [("warn", name.replace("_", " ")) for name in ("mirrored", "leak", "other_label") if pair[name]]
    told = "".join(f'<span class="tag {kind}">{name}</span>' for kind, name in tags)
    return f'<div class="card">{told}<div class="pair">{figure(pair["a"])}{figure(pair["b"])}</div></div>'


def _figure(parts: dict[str, Source], value_range: tuple[float, float] | None, row: dict[str, Any]) -> str:
    label = f"<b>{escape(str(row['label']))}</b> · " if "label" in row else ""
    caption = f'{label}{row["part"]} · {row["width"]} x {row["height"]}<br><span class="name">{escape(row["name"])}</span>'
    return f"<figure>{image(parts[row['part']], row['index'], value_range)}<figcaption>{caption}</figcaption></figure>"


def _odd(name: str, report: dict[str, Any], figure: Figure) -> str:
    rows = report[name]
    title, advice = _ODD[name]
    cards = "".join(f'<div class="card">{figure(row)}</div>' for row in rows[:_SHOWN])
    return _section(title, advice, f'<div class="grid single">{cards}</div>', report["summary"][name], _SHOWN) if rows else ""


def _unreadable(report: dict[str, Any]) -> str:
    rows = [[one["part"], one["name"], one["reason"]] for one in report["unreadable"][:_LINES]]
    advice = "Training replaces them by others. Repair or remove them."
    held = f'<div class="card">{table(["part", "name", "reason"], rows)}</div>'
    return _section("Unreadable", advice, held, report["summary"]["unreadable"], _LINES) if rows else ""


def _annotations(report: dict[str, Any]) -> str:
    rows = [[one["kind"], one.get("file", ""), one["id"], one["text"]] for one in report["annotations"]["first"][:_LINES]]
    counts = ", ".join(f"{kind}: {count:,}" for kind, count in report["annotations"]["counts"].items())
    held = f'<div class="card">{table(["kind", "file", "id", "facts"], rows)}</div>'
    return _section("Bad annotations", escape(counts), held, report["summary"]["bad_annotations"], _LINES) if rows else ""


def _section(title: str, advice: str, held: str, count: int, shown: int) -> str:
    more = f" The first {shown} of {count:,} are shown." if count > shown else ""
    return f"<h2>{title} ({count:,})</h2><p>{advice}{more}</p>{held}"


def _part(name: str, part: dict[str, Any]) -> str:
    cards = [_figures(part)]
    if "sizes" in part:
        cards += [bars("Short side in pixels", part["sizes"]["short_side"]), bars("File format, mode, channels read", part["kinds"])]
    if "classes" in part:
        cards.append(
            bars(
                f"Classes: {len(part['classes']['counts'])}, from {part['classes']['least']:,} to {part['classes']['most']:,} pictures",
                part["classes"]["counts"],
            )
        )
    if "captions" in part:
        rows = [[one["times"], one["caption"]] for one in part["captions"]["repeated"]]
        cards.append(f"<h3>Captions that come again</h3>{table(['times', 'caption'], rows)}" if rows else "")
    return f"<h2>Part {escape(name)}</h2><p></p>{columns([card for card in cards if card])}"


def _figures(part: dict[str, Any]) -> str:
    rows: list[list[Any]] = [["pictures", part["pictures"]], ["readable", part["readable"]]]
    for name, spread in [(key, value) for key, value in part.get("sizes", {}).items() if key != "short_side"]:
        rows.append([f"{name}: least, median, most", f"{spread['least']:,} · {spread['median']:,.0f} · {spread['most']:,}"])
    if part.get("mean"):
        rows += [[key, " ".join(f"{value:.4f}" for value in part[key])] for key in ("mean", "std")]
    for key in ("captions", "objects"):
        for name, value in part.get(key, {}).items():
            if isinstance(value, int):
                rows.append([name.replace("_", " "), value])
    if "captions" in part:
        words = part["captions"]["words"]
        rows.append(["words: least, median, most", f"{words['least']} · {words['median']:.0f} · {words['most']}"])
    return f"<h3>Figures</h3>{table([], rows)}"
