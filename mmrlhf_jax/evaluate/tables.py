"""A table of text, as Markdown and as HTML."""

import dataclasses

from mmrlhf_jax.evaluate.report_text import NO_VALUE, escape


@dataclasses.dataclass(frozen=True)
class Cell:
    """What stands in one place.

    Attributes:
      text: "" shows as a dash.
      strong: drawn in bold.
      good: True and False are coloured in HTML; None is not.
      prose: may be broken into lines.
    """

    text: str
    strong: bool = False
    good: bool | None = None
    prose: bool = False


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows under a header; the first cell of a row names it.

    Attributes:
      title: heading of the table.
      note: what the numbers are, in a sentence or two.
      header: one text for each column.
      rows: as many cells in each as the header has.

    Raises:
      ValueError: a row of another length than the header.
    """

    title: str
    note: str
    header: list[str]
    rows: list[list[Cell]]

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.header):
                raise ValueError(f"{self.title}: {len(row)} cells under {len(self.header)} columns")


def table_markdown(table: Table) -> str:
    """Heading, note and table in GitHub's Markdown."""
    lines = [_line(table.header), _line(["---"] * len(table.header))]
    lines += [_line([_marked(cell) for cell in row]) for row in table.rows]
    return "\n\n".join(filter(None, [f"## {table.title}", table.note, "\n".join(lines)])) + "\n"


def table_html(table: Table) -> str:
    """Note and table; the heading is the section's."""
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in table.header)
    body = "".join(f"<tr>{_named(row[0])}{''.join(map(_td, row[1:]))}</tr>" for row in table.rows)
    note = f"<p>{escape(table.note)}</p>" if table.note else ""
    return (
        f'{note}<div class="card wide"><table class="matrix"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _line(texts: list[str]) -> str:
    return "| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |"


def _marked(cell: Cell) -> str:
    return f"**{cell.text}**" if cell.strong and cell.text else cell.text or NO_VALUE


def _named(cell: Cell) -> str:
    return f'<th scope="row">{escape(cell.text)}</th>'


def _td(cell: Cell) -> str:
    verdict = [] if cell.good is None else ["met" if cell.good else "missed"]
    kinds = [*(["strong"] if cell.strong else []), *(["prose"] if cell.prose else []), *verdict]
    shown = f' class="{" ".join(kinds)}"' if kinds else ""
    return f"<td{shown}>{escape(cell.text) or NO_VALUE}</td>"
