"""Means with their intervals, one under the other, as inline SVG that follows the page's theme."""

from collections.abc import Sequence

from mmrlhf_jax.evaluate.bootstrap import Interval
from mmrlhf_jax.evaluate.report_text import escape, number

_ROW, _LEFT, _RIGHT, _WIDTH = 22, 168, 62, 520  # pixels of the view box
_TOP, _BOTTOM = 6, 22


def intervals_html(
    title: str, rows: Sequence[tuple[str, Interval]], *, low: float, high: float, mark: float | None = None
) -> str:
    """A <figure> with a dot and a line for each (name, interval), on a scale from `low` to `high`.

    Args:
      mark: a value with a line through all rows, e.g. the best that is possible.

    Raises:
      ValueError: `low` is not below `high`.
    """
    if not low < high:
        raise ValueError(f"a scale from {low} to {high} has no length")
    span = _WIDTH - _LEFT - _RIGHT
    bottom = _TOP + _ROW * len(rows)

    def place(value: float) -> str:
        return f"{_LEFT + span * (min(max(value, low), high) - low) / (high - low):.1f}"

    def upright(value: float, style: str) -> str:
        return f'<line x1="{place(value)}" x2="{place(value)}" y1="{_TOP}" y2="{bottom}" {style}/>'

    parts = []
    for tick in (low + (high - low) * step / 4 for step in range(5)):
        parts.append(upright(tick, 'stroke="var(--line)"'))
        parts.append(_text(place(tick), bottom + 16, "middle", "var(--muted)", f"{tick:.2f}"))
    if mark is not None:
        parts.append(upright(mark, 'stroke="var(--good)" stroke-width="1.5" stroke-dasharray="4 3"'))
    for index, (name, interval) in enumerate(rows):
        y = _TOP + _ROW * (index + 0.5)
        parts.append(
            _text(_LEFT - 10, y + 4, "end", "var(--ink)", escape(name))
            + f'<line x1="{place(interval.low)}" x2="{place(interval.high)}" y1="{y}" y2="{y}" '
            f'stroke="var(--accent)" stroke-width="2.5"/>'
            f'<circle cx="{place(interval.mean)}" cy="{y}" r="4" fill="var(--accent)"/>'
            + _text(_WIDTH - 4, y + 4, "end", "var(--muted)", number(interval.mean))
        )
    return (
        f'<figure class="card plot"><figcaption>{escape(title)}</figcaption>'
        f'<svg role="img" aria-label="{escape(title)}" viewBox="0 0 {_WIDTH} {bottom + _BOTTOM}" '
        f'font-size="13">{"".join(parts)}</svg></figure>'
    )


def _text(x: float | str, y: float, anchor: str, color: str, text: str) -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" fill="{color}">{text}</text>'
