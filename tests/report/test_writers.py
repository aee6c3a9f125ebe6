"""Whatever a cell holds, it comes back from each format; LaTeX is well formed."""

import io
import re

import pandas as pd
import pytest

from kdad.report.writers import (
    Report,
    Table,
    escape_latex,
    find_best,
    find_best_across,
    format_csv,
    format_latex,
    format_markdown,
    write_report,
)

NASTY = [
    "a|b", "50% & more", "path_to\\file", "#1 {x} ~ ^2", "<run folder>", 'say "no", $5', "2 ± 1", "–", "[2,3]", "*bold*",
    "two\nlines", "naïve",
]  # fmt: skip
LATEX = {
    r"\textbackslash{}": "\\", r"\textasciitilde{}": "~", r"\textasciicircum{}": "^", r"\textquotedbl{}": '"',
    r"\textless{}": "<", r"\textgreater{}": ">", r"\textbar{}": "|", r"$\pm$": "±", "--": "–",
}  # fmt: skip


@pytest.fixture
def report():
    head = [("", "name"), ("PRO (%)", "published"), ("PRO (%)", "measured"), ("", "n")]
    rows = [[text, text, "1", "3"] for text in NASTY]
    cells = pd.DataFrame({"name": NASTY, "value": [0.5] * len(NASTY)})
    return Report("name_1", "Title & 100%", [Table("", head, 1, rows, {1}), Table("Second_", head[:1], 1, [["x"]])],
                  ["note_1 100%", "f<g>"], cells)  # fmt: skip


def flat(text):
    return " ".join(text.split())


def latex_tables(text):
    """The cells of each tabular, after checks of braces, environments, columns and special characters."""
    text = re.sub(r"(?m)^%.*$", "", text)
    depth = 0
    for brace in re.findall(r"(?<!\\)[{}]", text):
        depth += 1 if brace == "{" else -1
        assert depth >= 0
    assert depth == 0
    open_ones = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", text):
        if kind == "begin":
            open_ones.append(name)
        else:
            assert open_ones.pop() == name
    assert not open_ones
    tables = []
    for columns, body in re.findall(r"\\begin\{tabular\}\{([lrc]+)\}\n(.*?)\\end\{tabular\}", text, re.DOTALL):
        assert body.startswith("\\toprule\n") and body.endswith("\\bottomrule\n")
        rows = []
        for line in body.splitlines():
            if re.fullmatch(r"(\\(top|mid|bottom)rule|(\\cmidrule\(lr\)\{\d-\d\})+)", line):
                continue
            assert line.endswith(r" \\")
            cells = re.split(r"(?<!\\)&", line.removesuffix(r" \\"))
            width = 0
            for cell in cells:
                span = re.match(r"\s*\\multicolumn\{(\d+)\}\{c\}\{.*\}\s*$", cell)
                width += int(span[1]) if span else 1
                left = re.sub(
                    r"\$(\\pm|[A-Z][\^_](\w|\{[\w,-]+\}))\$|\\[&%$#_{}]|\\text\w+\{\}|\\multicolumn|", "", cell
                )
                assert not re.search(r"[$%#_^~\\]", left), cell
            assert width == len(columns), line
            rows.append([unescape(cell.strip()) for cell in cells])
        tables.append(rows)
    return tables


def unescape(cell):
    cell = re.sub(r"^\{(\[.*)\}$", r"\1", cell)
    parts = re.split("(" + "|".join(map(re.escape, LATEX)) + r"|\\[&%$#_{}])", cell)
    return "".join(LATEX.get(part, part[1:] if re.fullmatch(r"\\.", part) else part) for part in parts)


def test_latex_is_well_formed_and_loses_nothing(report):
    text = format_latex(report)
    first, second = latex_tables(text)
    assert first[0] == ["", r"\multicolumn{2}{c}{PRO (%)}", ""]
    assert first[1] == ["name", "published", "measured", "n"]
    assert first[2:] == [[flat(t), flat(t), "1", "3"] for t in NASTY]
    assert second == [["name"], ["x"]]
    assert text.count(r"\midrule") == 3  # under each heading, and the rule of row 1
    assert r"\cmidrule(lr){2-3}" in text
    assert "\n{[2,3]} & [2,3] &" in text, "a bracket after \\\\ would be its argument"
    assert r"note\_1 100\%\par" in text and text.index("note") > text.rindex("tabular")


def test_the_checker_of_this_file_finds_faults(report):
    for good, bad in ((r" & 3 \\", r" \\"), (r"\end{tabular}", ""), (r"50\%", "50%"), (r"\}", "}"), (r"\_", "_")):
        with pytest.raises((AssertionError, IndexError)):
            latex_tables(format_latex(report).replace(good, bad, 1))
            assert len(latex_tables(format_latex(report).replace(good, bad, 1))) == 2


def test_latex_of_maps_and_of_letters_beyond_latin():
    assert (
        escape_latex("M^{1,2,3}") == "$M^{1,2,3}$"
        and escape_latex("M_{1-3}") == "$M_{1-3}$"
        and escape_latex("M^1") == "$M^1$"
    )
    assert escape_latex("L_dir") == r"L\_dir"
    assert escape_latex("-0.5") == "$-$0.5" and escape_latex("train-val") == "train-val"
    assert escape_latex("é") == "é" and escape_latex("中") == "U+4E2D"


def test_markdown_loses_nothing(report):
    tables = [block.splitlines() for block in format_markdown(report).split("\n\n") if block.startswith("|")]
    first = [[re.sub(r"\\([|<*])", r"\1", c.strip()) for c in re.split(r"(?<!\\)\|", row)[1:-1]] for row in tables[0]]
    assert first[0] == ["name", "PRO (%): published", "measured", "n"]
    assert re.fullmatch(r"-+", first[1][0]) and all(re.fullmatch(r"-+:", rule) for rule in first[1][1:])
    assert first[2:] == [[flat(t), flat(t), "1", "3"] for t in NASTY]
    assert len(set(map(len, tables[0]))) == 1, "columns are aligned in a terminal"
    assert "- f\\<g>" in format_markdown(report)


def test_csv_loses_nothing(report):
    pd.testing.assert_frame_equal(pd.read_csv(io.StringIO(format_csv(report))), report.cells)


def test_files(report, tmp_path):
    paths = write_report(report, tmp_path / "new")
    assert [path.name for path in paths] == ["name_1.md", "name_1.csv", "name_1.tex"]
    assert [path.read_text(encoding="utf-8") for path in paths] == [
        format_markdown(report),
        format_csv(report),
        format_latex(report),
    ]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["name_1.csv", "name_1.md", "name_1.tex"]


def test_the_best_is_bold_ties_as_printed_included():
    rows = [["rd", "97.69 ± 0.11", "n/a"], ["stpm", "97.69 ± 2.00", "3.0"], ["mkd", "9.70", "20.0"], ["x", "99.0", "1"]]
    best = find_best(rows, [1, 2], ["a", "a", "a", "b"])  # the last row is another data set's, with none beside it
    assert best == {(0, 1), (1, 1), (2, 2)}
    report = Report("study", "Runs", [Table("", [("", n) for n in "nab"], 1, rows, best=best)], [], pd.DataFrame())
    latex, markdown = format_latex(report), format_markdown(report)
    assert latex.count(r"\textbf{") == markdown.count("**") // 2 == 3
    assert r"\textbf{97.69 $\pm$ 0.11}" in latex and "**20.0**" in markdown and r"\textbf{99.0}" not in latex
    assert find_best_across([["grid", "9.0", "80.1", "n/a"], ["tile", "missing", "1.0", "n/a"]], 1) == {(0, 2)}
    assert find_best_across([["crack", "0.00", "0.00"], ["hole", "0.00", "0.01"]], 1) == {(1, 2)}  # none found is none
