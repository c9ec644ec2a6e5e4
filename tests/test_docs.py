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
    generate="core data detect classify", judge="core data detect classify generate",
    adpm="core data detect classify", report="core data detect", run="core phantom data classify generate report")
name = lambda path: path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_title_and_subtitle(path):
    first = nbformat.read(path, 4).cells[0]
    assert first.cell_type == "markdown"
    assert re.fullmatch(r"# \S.*\n\n> \S[^\n\\]*", first.source.strip())


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_no_link_around_a_link(path):
    "nbdev links the names of the package itself; a link around one shows as brackets"
    assert not re.findall(r"\[`[\w.]+`\]\([^)]*\)", prose(path))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_no_output_names_a_place_on_a_machine(path):
    "A warning does, and it belongs to that machine"
    shown = [str(o.get("text", "")) + str(o.get("data", {}).get("text/plain", "")) for c in nbformat.read(path, 4).cells for o in c.get("outputs", [])]
    assert not [text for text in shown if "site-packages" in text]


def prose(path: Path) -> str:
    return "\n\n".join(c.source for c in nbformat.read(path, 4).cells if c.cell_type == "markdown")


def places(path: Path) -> set[str]:
    "What JupyterLab calls the headings of a notebook"
    heads = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", prose(path), flags=re.S), re.M)
    return {re.sub(r"[`*_$]", "", head.strip()).replace(" ", "-") for head in heads}


def dead_links(path: Path) -> list[str]:
    "Links between notebooks that lead to no file, or to no heading in it"
    dead = []
    for target, place in re.findall(r"\]\((?!\w+:)([^)\s#]*)#?([^)\s]*)\)", re.sub(r"`[^`\n]+`", "", prose(path))):
        file = (path.parent / target) if target else path
        if not file.exists(): dead.append(f"{target}: no such file")
        elif place and place not in places(file): dead.append(f"{target}#{place}: not among {sorted(places(file))}")
    return dead


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_links_between_notebooks_lead_somewhere(path):
    "In JupyterLab as on the site, which spells the headings' places in its own way"
    assert not dead_links(path)
    assert not re.findall(r"\]\((?!\w+:)[^)\s]*\.html", prose(path)), "link to the notebook: .ipynb instead of .html"


def test_a_dead_link_is_found(tmp_path):
    cells = [nbformat.v4.new_markdown_cell("# A page\n\n[good](#A-page), [bad](#a-page), [gone](gone.ipynb)")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "page.ipynb")
    assert [link.split(":")[0] for link in dead_links(tmp_path / "page.ipynb")] == ["#a-page", "gone.ipynb"]


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


sys.path.insert(0, str(ROOT / "docs"))


def test_every_symbol_of_a_page_has_an_entry(monkeypatch):
    import build
    monkeypatch.chdir(ROOT)
    page = build.pages(ROOT / "nbs", "metrics.ipynb")["detect/metrics"]
    entries = re.findall(r"^```{entry} (\w+) (\S+) ?(.*)$", "\n".join(c.source for c in page.cells), re.M)
    exported = {name.split(".")[1] for name in build._exported() if name.startswith("detect/metrics.")}
    assert entries[0] == ("module", "logex_nb.detect.metrics", "")
    assert {name for _, _, name in entries[1:]} == exported


def test_papers_decide_their_order_and_captions(tmp_path, monkeypatch):
    import build
    monkeypatch.setattr(build, "ROOT", tmp_path)
    build._paper.cache_clear()
    first = 'title = "The first"\nposition = 1\n[stages]\nz = "made first"\n[targets.a]\ntitle = "then a table"'
    second = 'title = "The second"\nposition = 2\n[targets.table]\nnotebook = "b"'
    for paper, about in dict(old=first, new=second).items():
        (tmp_path / "nbs/papers" / paper).mkdir(parents=True)
        (tmp_path / "nbs/papers" / paper / "study.toml").write_text(about)
    wanted = "start_here phantom/histology phantom/cells papers/old/z papers/old/a papers/new/b papers/new/a".split()
    cells = [cell.source.splitlines() for cell in build.contents(sorted(wanted))]
    build._paper.cache_clear()
    assert [line for cell in cells for line in cell if line[0:1].isalpha()] == wanted
    assert [cell[2] for cell in cells[1:]] == [":caption: Phantom", ":caption: The first", ":caption: The second"]


def test_pictures_leave_the_page(tmp_path):
    import build
    output = nbformat.v4.new_output("display_data", {"text/html": '<img src="data:image/png;base64,aGVsbG8="/>'})
    page = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(outputs=[output])])
    build.pictures_apart(page, "papers/logex/oracle", tmp_path)
    (picture,) = tmp_path.iterdir()
    assert picture.read_bytes() == b"hello"
    assert page.cells[0].outputs[0].data["text/html"] == f'<img src="../../_static/pictures/{picture.name}"/>'


def test_dead_links_of_a_site_are_found(tmp_path):
    import build
    links = "".join(f'<a href="{link}"></a>' for link in ("#here", "b.html#x", "b.html#y"))
    (tmp_path / "a.html").write_text(f'<p id="here">{links}<img src="c.png"/></p>')
    (tmp_path / "b.html").write_text('<p id="x"><a href="https://example.org">out</a></p>')
    assert build.dead_links(tmp_path) == ["a.html: b.html#y", "a.html: c.png"]


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
