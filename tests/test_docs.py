"Pages, README and package agree with the notebooks, and rooms import in one direction"
import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbdev.clean import nbdev_clean

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted(p for p in (ROOT / "nbs").rglob("*.ipynb") if p.parent.name[0] != ".")
PAPERS = [p for p in NOTEBOOKS if {"papers", "stages"} & set(p.parts)]
MODULES = sorted(p for p in (ROOT / "logex_nb").rglob("*.py") if p.name[0] != "_")
BELOW = dict(  # What a room may import, beside itself
    core="", phantom="core", data="core phantom", detect="core", classify="core detect data",
    generate="core data detect classify", judge="core data detect classify generate", report="core data detect",
    run="core data report")
name = lambda path: path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_title_and_subtitle(path):
    first = nbformat.read(path, 4).cells[0]
    assert first.cell_type == "markdown"
    assert re.fullmatch(r"# \S.*\n\n> \S[^\n\\]*", first.source.strip())


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_no_link_around_a_link(path):
    "nbdev links the names of the package itself; a link around one shows as brackets"
    prose = "\n".join(c.source for c in nbformat.read(path, 4).cells if c.cell_type == "markdown")
    assert not re.findall(r"\[`[\w.]+`\]\([^)]*\)", prose)


@pytest.mark.parametrize("path", PAPERS, ids=name)
def test_cleaning_keeps_the_tag_that_papermill_needs(path, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)  # where nbdev finds its settings
    copy = shutil.copy(path, tmp_path)
    nbdev_clean(fname=str(copy))
    cells = nbformat.read(copy, 4).cells
    assert sum("parameters" in c.metadata.get("tags", []) for c in cells) == 1


def test_readme_is_what_the_index_gives(tmp_path):
    now = tmp_path / "README.md"
    subprocess.run([sys.executable, ROOT / "docs" / "build.py", "readme", "--to", now], check=True)
    mark = "<!-- read from results/ -->"  # a new result may await a new README, a new text may not
    text = lambda path: re.sub(f"{mark}.*?{mark}", "", path.read_text(), flags=re.S)
    assert text(ROOT / "README.md") == text(now), "README.md is behind nbs/index.ipynb: run `make readme`"


def imported_rooms(path: Path) -> set[str]:
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import): found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[:len(package) + 1 - node.level] if node.level else ()
            found = [".".join([*above, *filter(None, [node.module]), alias.name]) for alias in node.names]
        else: continue
        rooms |= {name.split(".")[1] for name in found if name.startswith("logex_nb.")}
    return rooms


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_rooms_import_in_one_direction(path):
    room = path.relative_to(ROOT / "logex_nb").parts[0].removesuffix(".py")
    assert imported_rooms(path) <= {room, *BELOW[room].split()}


def untyped(function: ast.FunctionDef) -> list[str]:
    named = function.args.posonlyargs + function.args.args + function.args.kwonlyargs
    bare = [a.arg for a in named if not a.annotation and a.arg not in ("self", "cls")]
    return [f"{function.name}({arg}) has no type" for arg in bare]


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_public_symbols_say_what_they_are_and_take(path):
    tree = ast.parse(path.read_text())
    lists = [n for n in tree.body if isinstance(n, ast.Assign) and n.targets[0].id == "__all__"]
    public = ast.literal_eval(lists[0].value)
    found = [n for n in tree.body if getattr(n, "name", "_")[0] != "_" and n.name in public]
    functions = [n for n in found if isinstance(n, ast.FunctionDef)]
    for c in (n for n in found if isinstance(n, ast.ClassDef)):
        methods = [n for n in c.body if isinstance(n, ast.FunctionDef)]
        functions += [f for f in methods if f.name[0] != "_" or f.name == "__init__"]
    silent = [f"{n.name} has no docstring" for n in found if not ast.get_docstring(n)]
    assert not silent + [problem for f in functions for problem in untyped(f)]
