"""Draws bars with their spread as SVG, for light and dark mode."""

from __future__ import annotations

from html import escape

ROW, BAR, LEFT, WIDTH, TOP = 26, 14, 190, 470, 34
_STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1f2933; } .title { font-weight: 600; } .note { fill: #52606d; }
.bar { fill: #8fa3b8; } .ours { fill: #2563eb; } .spread { stroke: #1f2933; stroke-width: 1.5; }
.one { stroke: #9aa5b1; }
@media (prefers-color-scheme: dark) {
  text { fill: #e4e7eb; } .note { fill: #9aa5b1; } .bar { fill: #66788a; } .ours { fill: #60a5fa; }
  .spread { stroke: #e4e7eb; } .one { stroke: #616e7c; }
}
"""
Rows = list[tuple[str, tuple[float, float, float]]]
"""A label with minimum, median and maximum."""


def bars(columns: dict[str, Rows], note: str) -> str:
    """One below the other, with a dashed line at 1. Labels that begin with Keyswitch have our colour."""
    parts, top = [], TOP
    for title, rows in columns.items():
        parts.append(f'<text class="title" x="0" y="{top - 12}">{escape(title)}</text>')
        scale = WIDTH / max(most for _, (_, _, most) in rows)
        height = ROW * len(rows)
        at = LEFT + scale
        parts.append(
            f'<line class="one" x1="{at:.1f}" x2="{at:.1f}" y1="{top - 4}" y2="{top + height}" stroke-dasharray="3 3"/>'
        )
        for number, (label, spread) in enumerate(rows):
            parts.append(_row(label, spread, scale, top + number * ROW))
        top += height + 44
    size = f'viewBox="0 0 {LEFT + WIDTH + 70} {top}" width="{LEFT + WIDTH + 70}" height="{top}"'
    parts.append(f'<text class="note" x="0" y="{top - 20}">{escape(note)}</text>')
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img"><style>{_STYLE}</style>{"".join(parts)}</svg>\n'


def _row(label: str, spread: tuple[float, float, float], scale: float, y: int) -> str:
    least, middle, most = spread
    kind = "bar ours" if label.startswith("Keyswitch") else "bar"
    ends = f'x1="{LEFT + least * scale:.1f}" x2="{LEFT + most * scale:.1f}"'
    at = y + BAR / 2 + 2
    return (
        f'<text x="0" y="{y + BAR}">{escape(label)}</text>'
        f'<rect class="{kind}" x="{LEFT}" y="{y + 2}" width="{middle * scale:.1f}" height="{BAR}" rx="2"/>'
        f'<line class="spread" {ends} y1="{at}" y2="{at}"/>'
        f'<text x="{LEFT + most * scale + 8:.1f}" y="{y + BAR}">{middle:.2f}</text>'
    )
