"""A page of prose, tables and figures as one HTML file that loads nothing else."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterable, Sequence
from html import escape
from string import Template
from textwrap import wrap
from typing import NamedTuple

from mmkd.palette import DARK, INK, LINE, MUTED, PAPER


class Swatch(NamedTuple):
    """A cell with a method's name beside its colour."""

    text: str
    colour: str
    filled: bool


Cell = str | Swatch
"""A cell of a table: text, or a method's name beside its colour."""


class Table(NamedTuple):
    """Rows of a table, with headings if any; the first ``words`` columns are text, the others numbers."""

    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    words: int = 1
    note: str = ""


class Picture(NamedTuple):
    """A figure as inline SVG, what it shows in words, and its caption."""

    svg: str
    alt: str
    caption: str


class Gallery(NamedTuple):
    """Photographs under headings: each row has a name and a JPEG for each column."""

    head: Sequence[str]
    rows: Sequence[tuple[str, Sequence[bytes]]]
    caption: str


class Details(NamedTuple):
    """Blocks that are folded until a reader opens them."""

    title: str
    blocks: Sequence[Block]


Block = str | Table | Picture | Gallery | Details | list[str]
"""A block below a heading: a paragraph, a table, pictures, or a list."""


class Section(NamedTuple):
    """A heading and the blocks below it: paragraphs, lists, tables, pictures."""

    title: str
    blocks: Sequence[Block]


def plain(table: Table, *, width: int) -> str:
    """The table as aligned text of at most ``width`` columns; a longer first column takes several lines."""
    cells = [[_text(cell) for cell in row] for row in [table.head, *table.rows]]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    widths[0] = min(widths[0], width - sum(widths[1:]) - 2 * (len(widths) - 1))
    lines = []
    for row in cells:
        first, *more = wrap(row[0], max(widths[0], 1)) or [""]
        padded = [first.ljust(widths[0])]
        padded += [
            cell.ljust(size) if i < table.words else cell.rjust(size)
            for i, (cell, size) in enumerate(zip(row[1:], widths[1:], strict=True), 1)
        ]
        lines += ["  ".join(padded).rstrip(), *more]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def page(name: str, lead: Sequence[str], sections: Iterable[Section]) -> str:
    """The whole page; every string is escaped."""
    body = "\n".join(
        f"<section><h2>{escape(title)}</h2>\n{_blocks(blocks)}</section>" for title, blocks in sections
    )
    head = "\n".join(f"<p>{escape(sentence)}</p>" for sentence in lead)
    light, dark = (
        ";".join(f"{variable}:{theme.get(colour, colour)}" for colour, variable in VARIABLES.items())
        for theme in ({}, DARK)
    )
    return PAGE.substitute(title=escape(name), lead=head, body=body, light=light, dark=dark, style=STYLE)


def _text(cell: Cell) -> str:
    return cell.text if isinstance(cell, Swatch) else cell


def _blocks(blocks: Iterable[Block]) -> str:
    return "".join(f"{_block(block)}\n" for block in blocks)


def _block(block: Block) -> str:
    match block:
        case str():
            return f"<p>{escape(block)}</p>"
        case Picture():
            svg = block.svg.replace("<svg ", f'<svg role="img" aria-label="{escape(block.alt)}" ', 1)
            return f"<figure>{svg}<figcaption>{escape(block.caption)}</figcaption></figure>"
        case Table():
            return _table(block)
        case Gallery():
            return _gallery(block)
        case Details():
            return f"<details><summary>{escape(block.title)}</summary>{_blocks(block.blocks)}</details>"
        case _:
            return "<ul>" + "".join(f"<li>{escape(item)}</li>" for item in block) + "</ul>"


def _table(table: Table) -> str:
    def row(cells: Sequence[Cell], scope: str) -> str:
        drawn = []
        for column, cell in enumerate(cells):
            tag = "th" if scope == "col" or column == 0 else "td"
            more = f' scope="{scope}"' if tag == "th" else ""
            more += ' class="word"' if column < table.words else ""
            drawn.append(f"<{tag}{more}>{_swatch(cell)}{escape(_text(cell))}</{tag}>")
        return f"<tr>{''.join(drawn)}</tr>"

    head = f"<thead>{row(table.head, 'col')}</thead>" if any(table.head) else ""
    body = "\n".join(row(cells, "row") for cells in table.rows)
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    return f'<div class="scroll" tabindex="0"><table>{head}<tbody>{body}</tbody></table></div>{note}'


def _gallery(gallery: Gallery) -> str:
    def photo(name: str, title: str, jpeg: bytes) -> str:
        if not jpeg:
            return "<td></td>"
        source = f"data:image/jpeg;base64,{b64encode(jpeg).decode()}"
        return f'<td><img loading="lazy" alt="{escape(f"{name}: {title}")}" src="{source}"></td>'

    head = "".join(f'<th scope="col" class="word">{escape(title)}</th>' for title in gallery.head)
    rows = "\n".join(
        f'<tr><th scope="row">{escape(name)}</th>'
        + "".join(photo(name, title, jpeg) for title, jpeg in zip(gallery.head, jpegs, strict=True))
        + "</tr>"
        for name, jpegs in gallery.rows
    )
    table = f'<table class="photos"><thead><tr><td></td>{head}</tr></thead><tbody>{rows}</tbody></table>'
    caption = f'<p class="note">{escape(gallery.caption)}</p>'
    return f'<div class="scroll" tabindex="0">{table}</div>{caption}'


def _swatch(cell: Cell) -> str:
    if not isinstance(cell, Swatch):
        return ""
    colour = f"var({VARIABLES[cell.colour]})" if cell.colour in VARIABLES else cell.colour
    fill = f"background:{colour};" if cell.filled else ""
    return f'<i style="{fill}border-color:{colour}"></i>'


def inline(svg: str, name: str) -> str:
    """An SVG file as an element of a page: unique ids, its text in the colours of the page.

    Args:
        svg: what matplotlib wrote.
        name: prefix of every id, since a page holds several pictures.
    """
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->|\n\s*", "", svg, flags=re.DOTALL)
    opening, rest = svg.split(">", 1)
    opening = re.sub(r' (?:xmlns(?::\w+)?|width|height|version)="[^"]*"', "", opening)
    svg = f"{opening}>{rest}".replace("xlink:href", "href")
    svg = re.sub(r'( id="|href="#|url\(#)', rf"\1{name}-", svg)
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    return svg


VARIABLES = {INK: "--ink", MUTED: "--muted", LINE: "--line", PAPER: "--paper"}
"""Colours that differ on a dark page, and their names in the style sheet."""
STYLE = """
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);-webkit-text-size-adjust:100%;
 font:1rem/1.6 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans","DejaVu Sans",sans-serif}
main{max-width:56rem;margin:0 auto;padding:2.5rem 1.1rem 4rem}
h1{font-size:1.75rem;line-height:1.25;margin:0 0 1.2rem;font-weight:650;letter-spacing:-.01em}
h2{font-size:1.15rem;margin:3.2rem 0 .6rem;font-weight:650}
p,li{max-width:42rem;margin:.6rem 0;overflow-wrap:anywhere}
header p:first-of-type{font-size:1.15rem;line-height:1.55}
ul{padding-left:1.2rem}
figure{margin:1.4rem 0}
figure svg{display:block;width:100%;max-width:37rem;height:auto}
figcaption,.note,.scroll,details{font-size:.875rem;line-height:1.5}
figcaption,.note{color:var(--muted);max-width:42rem;margin:.5rem 0 0}
.scroll{overflow-x:auto;margin:1.1rem 0;background:
 linear-gradient(to right,var(--paper) 30%,transparent) left/3rem 100% no-repeat local,
 linear-gradient(to left,var(--paper) 30%,transparent) right/3rem 100% no-repeat local,
 linear-gradient(to right,var(--line),transparent) left/1rem 100% no-repeat scroll,
 linear-gradient(to left,var(--line),transparent) right/1rem 100% no-repeat scroll}
table{border-collapse:collapse;min-width:100%;font-variant-numeric:tabular-nums lining-nums}
th,td{padding:.42rem .7rem;text-align:right;white-space:nowrap;font-weight:400;
 border-bottom:1px solid var(--line)}
th:first-child{padding-left:0}
.word{text-align:left}
td.word{white-space:normal;min-width:9rem;overflow-wrap:anywhere}
tbody th{white-space:normal;min-width:8.5rem}
thead th{color:var(--muted);vertical-align:bottom;white-space:normal;line-height:1.3}
th i{display:inline-block;width:.7em;height:.7em;margin-right:.5em;border:2px solid;border-radius:50%}
.photos td{padding:.2rem}
.photos img{display:block;width:15rem;height:auto}
details{margin:1rem 0;border-top:1px solid var(--line);padding-top:.6rem}
summary{cursor:pointer;color:var(--muted)}
"""
"""The page's style sheet."""

PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width,initial-scale=1">
<title>$title</title>
<style>
:root{color-scheme:light dark;$light}
@media(prefers-color-scheme:dark){:root{$dark}}$style</style>
</head>
<body>
<main>
<header><h1>$title</h1>
$lead</header>
$body
</main>
</body>
</html>
""")
"""The HTML around the sections of a page."""
