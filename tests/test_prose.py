"""Numbers in the prose of the papers' pages: no result is typed, and every sentence says what results/ hold

A sentence with a result comes from a cell marked `exec_doc` that reads it. `make prose` runs
these cells again and keeps what they show; a page runs them whenever it is built.
"""
import ast
import re
import subprocess
from functools import cache
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from execnb.shell import CaptureShell

ROOT = Path(__file__).parent.parent
PAGES = sorted(path for room in ("stages", "papers") for path in (ROOT / "nbs" / room).rglob("*.ipynb"))
READERS = [*PAGES, ROOT / "nbs" / "start_here.ipynb", *sorted((ROOT / "nbs" / "tutorials").glob("*.ipynb"))]  # may show results/; what the index shows is in README.md
QUOTED = r"```.*?```|`[^`]*`|\$\$.*?\$\$|\$[^$\n]*\$"  # code and formulas: settings stand here
NAMED = r"\]\([^)\s]*\)|\b(?:Stable Diffusion|[Ss]ection|Figure|Table|Python) \d+\.\d+"  # links, names with a number
NUMBER = r"(?<![\w.,])(?:\d+\.\d+(?!\.?\d)|\d+(?=\s?%))"  # decimals, and integers in percent
DEFINED = {"95", "100"}  # of FPR95 and of intervals; the whole
NOTE = "Not recorded in this copy"  # of `if_recorded`
name = lambda path: path.relative_to(ROOT).as_posix()


@cache
def published(paper: str) -> set[str]: # As the paper prints them
    table = pd.read_csv(ROOT / "logex_nb" / "assets" / "published.csv", dtype=str)
    table = table[table["table"].str.startswith(paper)]
    return {*table["mean"].dropna(), *table["std"].dropna()}


def without(pattern: str, text: str) -> str:
    return re.sub(pattern, " ", text, flags=re.S)


def typed(text: str, paper: str = "logex") -> list[str]:
    "Numbers that are no setting, name, published number of the paper or definition, each with its sentence"
    sentences = re.split(r"(?<=[.:;!?])\s+|\n\n|\n(?=[-|])", without(f"{QUOTED}|{NAMED}", text))
    return [f"{number} in {sentence.strip()!r}" for sentence in sentences
            for number in re.findall(NUMBER, sentence) if number not in DEFINED | published(paper)]


def literals(code: str) -> str:
    "What a cell types itself: its texts, outside the braces of f-strings, and its decimals"
    nodes = list(ast.walk(ast.parse(code)))
    inside = {id(part) for node in nodes if isinstance(node, ast.FormattedValue) for part in ast.walk(node)}
    constants = [node for node in nodes if isinstance(node, ast.Constant)]
    texts = [node.value for node in constants if isinstance(node.value, str) and id(node) not in inside]
    return "\n\n".join([*texts, *(str(node.value) for node in constants if isinstance(node.value, float))])


def code_of(cell) -> str: # Without directives
    return re.sub(r"^#\|.*\n?", "", cell.source, flags=re.M).strip() if cell.cell_type == "code" else ""


def reads_results(cell) -> bool:
    "Marked `exec_doc`; the long tables that `recorded` alone shows are not kept in a notebook"
    return "#| exec_doc" in cell.source and not re.fullmatch(r"recorded\([^)]*\)", code_of(cell))


def only_imports(code: str) -> bool:
    return bool(code) and all(isinstance(node, (ast.Import, ast.ImportFrom)) for node in ast.parse(code).body)


def says(cell) -> list[str]: # Markdown that its outputs show
    shown = [o["data"]["text/markdown"] for o in cell.get("outputs", []) if "text/markdown" in o.get("data", {})]
    return ["".join(text) for text in shown]


def shows(cell) -> list[str]: # Sentences and tables, no pictures
    shown = [o.get("data", {}) for o in cell.get("outputs", [])]
    return ["".join(d.get("text/markdown") or d.get("text/plain", "")) for d in shown if "image/png" not in d]


def rerun(notebook) -> None:
    "Run the cells that read results/, with the imports above them, and set their outputs"
    shell = CaptureShell(mpl_format="png")
    for i, cell in enumerate(notebook.cells):
        needed = only_imports(code_of(cell)) and any(map(reads_results, notebook.cells[i:]))
        if not (needed or reads_results(cell)): continue
        outputs = shell.run(code_of(cell)) or []
        if shell.exc: raise RuntimeError(f"cell {cell.id} fails") from shell.exc
        if not reads_results(cell): continue
        cell.outputs = [nbformat.from_dict(output) for output in outputs]
        for output in cell.outputs: output.update({"execution_count": None} if "execution_count" in output else {})


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_no_result_is_typed(path):
    problems, paper = [], path.parent.name if name(path).startswith("nbs/papers/") else "logex"
    for cell in nbformat.read(path, 4).cells:
        text = cell.source if cell.cell_type == "markdown" else literals(code_of(cell)) if says(cell) else ""
        problems += [f"{name(path)}, cell {cell.id}: {problem}" for problem in typed(text, paper)]
    assert not problems, "read these numbers in a cell, as report.recorded shows:\n" + "\n".join(problems)


@pytest.mark.parametrize("path", READERS, ids=name)
def test_sentences_say_what_is_recorded(path):
    kept, now = nbformat.read(path, 4), nbformat.read(path, 4)
    if not any(map(reads_results, kept.cells)): pytest.skip("reads no results, or shows only the long tables")
    if subprocess.run(["git", "diff", "--quiet", "HEAD", "--", "results"], cwd=ROOT).returncode == 1:
        pytest.skip("results/ hold runs of your own, and the notebooks what was recorded before")
    rerun(now)
    for old, new in zip(kept.cells, now.cells):
        assert NOTE not in "".join(says(new)), f"{name(path)}, cell {old.id}"
        if reads_results(old): assert shows(old) == shows(new), f"{name(path)}, cell {old.id}: run `make prose`"


def recorded_numbers(path: Path) -> list[float]: # Of a notebook's own tables, without sign
    tables = ROOT.glob(f"results/*/*/{path.parent.name}_{path.stem}/*.csv")
    return [abs(x) for table in tables for x in pd.read_csv(table).select_dtypes("number").stack()]


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_sentences_of_a_run_stand_in_its_tables(path):
    "Cells of the run itself cannot run here; what they said is held against its CSVs, but for names in bold"
    for cell in nbformat.read(path, 4).cells:
        if reads_results(cell): continue
        for number in set(re.findall(NUMBER, without(QUOTED + r"|\*\*.*?\*\*", "\n".join(says(cell))))) - DEFINED:
            digits = len(number.partition(".")[2])
            found = any(f"{x:.{digits}f}" == number for x in recorded_numbers(path))
            assert found, f"{name(path)}, cell {cell.id}: {number} is in no table of its run"


@pytest.mark.parametrize("text, numbers", [
    ("Tail accuracy rises to 56.5 %.", ["56.5"]),
    ("It is lower (36.7 against 12 %), by −3.7.", ["36.7", "12", "3.7"]),
    ("It stops at `0.8`, with $\\tau = 0.5$, as Section 4.4 says of Stable Diffusion 1.4 ([a](a1.5.ipynb)).", []),
    ("The paper's oracle had 96.1 %, at the threshold that accepts 95 % of the head.", []),
])
def test_typed_numbers_are_found(text, numbers):
    assert [problem.split()[0] for problem in typed(text)] == numbers


def test_a_published_number_stands_on_the_pages_of_its_paper():
    assert typed("It prints 70.1 %.", "logex") and not typed("It prints 70.1 %.", "adpm")
    assert typed("It prints 16.25 %.", "adpm") and not typed("It prints 16.25 %.", "logex")


def test_what_a_cell_types_is_found_outside_of_braces():
    sentence = 'if_recorded(lambda: f"It is 56.5, not {fpr(\'stop at 0.4\'):.1f}.")'
    assert [problem.split()[0] for problem in typed(literals(sentence))] == ["56.5"]
    assert [problem.split()[0] for problem in typed(literals("x = 56.5\nMarkdown(f'{x} %')"))] == ["56.5"]


def main() -> None:
    for path in READERS:
        notebook = nbformat.read(path, 4)
        rerun(notebook)
        nbformat.write(notebook, path)


if __name__ == "__main__": main()
