"""LaTeX: a table that compiles as far as its structure tells, and text that can't be a command."""

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports.grids import load_grid
from reports.latex import latex_text, to_latex
from reports.tables import result_table


@pytest.fixture(scope="module")
def text(ablation):
    return to_latex(result_table(load_grid(ablation, "p2m_sinkhorn_iterations")))


def test_every_line_has_as_many_cells_as_there_are_columns(text):
    for tabular in re.findall(r"\\begin{tabular}{([^\n]+)}\n(.+?)\\end{tabular}", text, re.DOTALL):
        columns = len(re.findall(r"[lr]|p{6cm}", tabular[0]))
        lines = [line for line in tabular[1].splitlines() if line.endswith(r"\\")]
        assert len(lines) == 5 + 1 + ("multicolumn" in tabular[1])
        for line in lines:
            spans = [int(n) for n in re.findall(r"\\multicolumn{(\d+)}", line)]
            assert len(re.findall(r"(?<!\\)&", line)) + 1 + sum(spans) - len(spans) == columns
        for first, last in re.findall(r"\\cmidrule\(lr\){(\d+)-(\d+)}", tabular[1]):
            assert 1 <= int(first) <= int(last) <= columns


def test_rules_are_those_of_booktabs(text):
    for rule in ("toprule", "midrule", "bottomrule"):
        assert text.count(f"\\{rule}") == 2
    assert "hline" not in text and text.count(r"\begin{table*}") == text.count(r"\end{table*}") == 2


def test_environments_and_braces_are_balanced(text):
    plain = re.sub(r"\\[{}]", "", text)
    assert plain.count("{") == plain.count("}")
    assert sorted(re.findall(r"\\begin{(.+?)}", text)) == sorted(re.findall(r"\\end{(.+?)}", text))


@given(st.text(max_size=40))
def test_text_is_never_a_command(raw):
    text = latex_text(raw)
    for known in (r"\\textbackslash{}", r"\\text(ascii)?(circum|tilde|less|greater|bar){}", r"\$(\\pm|-|\\varepsilon)\$",
                  r"\\dots{}", r"\\[{}%&#_$]"):  # fmt: skip
        text = re.sub(known, "", text)
    assert not set("\\{}%&#_$^~\n") & set(text)
    assert all(sign.isprintable() for sign in text)


def test_a_name_is_no_argument_of_the_line_before_it(ablation):
    """LaTeX takes a bracket or star after a line break or a rule for its argument."""
    table = result_table(load_grid(ablation, "p2m_sinkhorn_iterations"))
    for label in ("[t] mine", "*mine"):
        rows = tuple(replace(row, values={**row.values, "label": label}) for row in table.rows)
        text = to_latex(replace(table, rows=rows))
        assert text.count(f"\n{{}}{label} &") == 2 * len(rows) and not re.search(r"\n[\[*]", text)


def test_a_failed_row_has_its_reason(results):
    text = to_latex(result_table(load_grid(results, "demo")))
    assert "FloatingPointError" in text and r"tensor ''5'' is not finite \&" in text and "<script" not in text
