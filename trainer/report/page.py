"""What every page and figure shares: colours, marks, style sheet, tables, pictures inside the file.

Colours are Okabe & Ito's (2008), told apart by the colour-blind; every series also has a mark and a dash of its own, so
that the figures can be read in grey.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKS = ("o", "s", "^", "D", "v", "P", "x")
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))

STYLE = """body{font:16px/1.5 Georgia,serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#111;background:#fff}
table{border-collapse:collapse;font-size:.85rem;margin:.5rem 0 1.5rem}
td,th{padding:.15rem .6rem;text-align:right;border-bottom:1px solid #ddd}
td.word,th.word{text-align:left}.wide{overflow-x:auto}img{width:100%}figure{margin:1.5rem 0}
figcaption{font-size:.9rem;color:#333}code{font-size:.85rem;overflow-wrap:anywhere}
.modelled{color:#8a3b00}.measured{color:#004d80}
@media print{body{max-width:none;margin:0}figure,table{break-inside:avoid}}"""

Cell = str | float | int | None


def svg(figure: Figure) -> bytes:
    """Without a date, so that the same figures are the same bytes."""
    picture = io.BytesIO()
    figure.savefig(picture, format="svg", metadata={"Date": None})
    return picture.getvalue()


def picture_html(picture: bytes, *, title: str, caption: str) -> str:
    source = base64.b64encode(picture).decode()
    return (
        f'<figure><img alt="{html.escape(title)}" src="data:image/svg+xml;base64,{source}">'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def table_html(heads: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    """Words stand left, numbers right; None is an empty cell."""
    lines = [_row("th", heads), *(_row("td", row) for row in rows)]
    return '<div class="wide"><table>\n' + "\n".join(lines) + "\n</table></div>"


def _row(tag: str, row: Sequence[Cell]) -> str:
    def cell(value: Cell) -> str:
        word = ' class="word"' if isinstance(value, str) and tag == "td" and not _number(value) else ""
        return f"<{tag}{word}>{html.escape(shown(value))}</{tag}>"

    return "<tr>" + "".join(map(cell, row)) + "</tr>"


def _number(text: str) -> bool:
    return text[:1].isdigit() or text[:2].strip("-+.")[:1].isdigit()


def shown(value: Cell) -> str:
    """A cell as people read it: four digits of a small number, whole thousands of a large one."""
    if value is None:
        return ""
    if isinstance(value, str | int):
        return f"{value:,}" if isinstance(value, int) else value
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def page_html(title: str, body: str) -> str:
    """Nothing in it asks the network for anything."""
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>\n'
        f'<meta name="viewport" content="width=device-width">\n<style>{STYLE}</style>\n'
        f"<h1>{html.escape(title)}</h1>\n{body}</html>\n"
    )


def text_table(heads: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    """For the terminal."""
    lines = [tuple(heads), *(tuple(shown(cell) for cell in row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
