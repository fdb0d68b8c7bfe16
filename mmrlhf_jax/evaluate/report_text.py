"""Text and numbers as they stand in the report."""

import html
import math

NO_VALUE = "\u2013"
_MINUS = "\u2212"


def escape(text: object) -> str:
    """Anything as HTML text or attribute value; what it held of markup is shown, not obeyed."""
    return html.escape(str(text), quote=True)


def number(value: float | str | None) -> str:
    """Three decimals, four digits where those would not do; a dash for None, NaN and infinities.

    Strings stay as they are, escaped.
    """
    if isinstance(value, str):
        return escape(value)
    if value is None or not math.isfinite(value):
        return NO_VALUE
    value += 0.0  # no minus before a zero
    text = f"{value:.3f}" if value == 0 or 0.001 <= abs(value) < 1000 else f"{value:.4g}"
    return text.replace("-", _MINUS)


def duration(seconds: float) -> str:
    """1.2 s, 3 min 05 s, 2 h 07 min; a dash when not finite."""
    if not math.isfinite(seconds):
        return NO_VALUE
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
