"""Result tables as LaTeX with booktabs rules, from the same object as the other forms."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from reports.columns import Column
from reports.tables import ResultTable
from reports.writers import NOTHING, format_parts

ESCAPES = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "%": r"\%", "&": r"\&", "#": r"\#", "_": r"\_", "$": r"\$",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    '"': "''", "±": r"$\pm$", "–": "--", "−": "$-$", "…": r"\dots{}", "ε": r"$\varepsilon$",
}  # fmt: skip

def to_latex(table: ResultTable) -> str:
    """The quality table and the cost table as ``table*`` environments; needs booktabs and graphicx.

    Tables wider than the text are scaled down to it. Notes stand under the quality table.
    """
    parts = ["% \\usepackage{booktabs,graphicx}"]
    for part in table.parts():
        columns = table.shown(part)
        notes = [latex_text(note) for note in table.notes] if part == "quality" else []
        parts.append("\n".join([
            r"\begin{table*}", r"\centering", f"\\caption{{{latex_text(table.title)}: {part}.}}",
            r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
            f"\\begin{{tabular}}{{{''.join(_kind(c) for c in columns)}}}", r"\toprule",
            *_head(table, part, columns), r"\midrule",
            *(_line(_cell(column, *format_parts(column, row)) for column in columns) for row in table.rows),
            r"\bottomrule", r"\end{tabular}}",
            *([r"\par\smallskip\raggedright\footnotesize", *notes] if notes else []), r"\end{table*}",
        ]))  # fmt: skip
    return "\n\n".join(parts) + "\n"


def _kind(column: Column) -> str:
    return "p{6cm}" if column.key == "reason" else "r" if column.right else "l"


def _head(table: ResultTable, part: str, columns: Sequence[Column]) -> list[str]:
    """One line of headings, or two with rules under the groups."""
    names = _line(latex_text(column.term) for column in columns)
    if not any(column.group for column in columns):
        return [names]
    groups, rules, first = [], [], 1
    for group, width in table.headings(part):
        groups.append(f"\\multicolumn{{{width}}}{{c}}{{{latex_text(group)}}}" if group else " & ".join([""] * width))
        if group:
            rules.append(f"\\cmidrule(lr){{{first}-{first + width - 1}}}")
        first += width
    return [_line(groups), " ".join(rules), names]


def _cell(column: Column, text: str, more: str) -> str:
    return "--" if text + more == NOTHING else latex_text(text + more)


def _line(cells: Iterable[str]) -> str:
    """A line of a table. A bracket or star at its start would be an argument of the rule or line break before it."""
    line = " & ".join(cells) + r" \\"
    return f"{{}}{line}" if line.startswith(("[", "*")) else line


def latex_text(text: str) -> str:
    """Text from a record that can't be a command; what LaTeX has a sign for is written with it, control characters (an
    error message may have some) are left out. Other than Latin letters need LuaLaTeX or XeLaTeX."""
    return "".join(ESCAPES.get(sign, sign) for sign in " ".join(text.split()) if sign.isprintable())
