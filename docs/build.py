"""The documentation, without Quarto: a site in _docs/, and README.md.

nbdev processes the notebooks: hidden cells go, cells marked `exec_doc` run, names become links.
This script makes plain pages of that in _docsrc/, and sphinx with myst-nb a site of the pages.
"""
import argparse
import ast
import base64
import os
import re
import shutil
import sys
import tarfile
import tempfile
from functools import cache
from pathlib import Path

import nbformat
import pooch
import yaml
from nbdev.config import get_config
from nbdev.serve import proc_nbs
from nbdev.showdoc import showdoc_nm
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell
from sphinx.cmd.build import build_main

ROOT = Path(__file__).resolve().parent.parent
SOURCES, SITE = ROOT / "_docsrc", ROOT / "_docs"
ROOMS = "tutorials core phantom data detect classify generate judge report run papers".split()
MATHJAX = "https://registry.npmjs.org/mathjax/-/mathjax-3.2.2.tgz"
MATHJAX_SHA256 = "1b9c0a1c44df864e915690558e72adb9cc5203360daefd385084ced3b6c64c09"
SHOWN = r'^#\| (code-summary: "Exported source"|recorded: true)$' # Cells whose definitions show
RECORDED = "<!-- read from results/ -->" # In the README, around what is

Pages = dict[str, NotebookNode] # By name, such as 'data/sources'


# From notebooks to pages

def pages(
    notebooks: Path, # Folder of notebooks
    glob: str = "*.ipynb", # Which of them
) -> Pages: # Plain notebooks: Markdown, code as the reader should see it, outputs
    "Notebooks after nbdev's processing, with its marks for Quarto taken out"
    with tempfile.TemporaryDirectory() as staged:
        for path in sorted(notebooks.rglob(glob)):
            name = path.relative_to(notebooks)
            if any(part[0] in "._" for part in name.parts): continue
            (staged / name).parent.mkdir(parents=True, exist_ok=True)
            nbformat.write(_staged(nbformat.read(path, 4)), staged / name)
        done = proc_nbs(staged, n_workers=0, force=True)
    found = {path.relative_to(done).with_suffix("").as_posix(): path
             for path in sorted(done.rglob("*.ipynb"))}
    return {name: _plain(nbformat.read(path, 4)) for name, path in found.items()}


def _staged(nb: NotebookNode) -> NotebookNode:
    "Definitions, unlike imports, are shown; annotations may name what is defined further down"
    for cell in (c for c in nb.cells if c.cell_type == "code"):
        if re.search(r"^(def|class|@|\w+ *(:.*)?=)", cell.source, re.M):
            cell.source = re.sub(r"^#\| *export$", "#| exports", cell.source, 0, re.M)
        marked = "#| exec_doc\n#| recorded: true"
        cell.source = re.sub(r"^#\| *exec_doc$", marked, cell.source, 0, re.M)
    exports = [re.match(r"#\| *default_exp +(\S+)", cell.source) for cell in nb.cells]
    for i, module in enumerate(exports):
        if not module: continue
        nb.cells.insert(i + 1, new_code_cell(f"#| hide\nfrom logex_nb.{module[1]} import *"))
    return nb


def _plain(nb: NotebookNode) -> NotebookNode:
    "Title, text, code and outputs; the name of a symbol is a heading over the code that defines it"
    shown = (c for c in nb.cells if c.cell_type == "code" and re.search(SHOWN, c.source, re.M))
    defined = {name for cell in shown for name in _symbols(cell)}
    cells = []
    for cell in nb.cells:
        option = dict(re.findall(r"^#\| *([\w-]+):? *(.*)$", cell.source, re.M))
        again = re.match(r"show_doc\((\w+)\)", _code(cell))
        if cell.cell_type == "raw": cells.append(_title(cell.source))
        elif cell.source.startswith("<!-- WARNING") or again and again[1] in defined: continue
        elif cell.cell_type == "markdown": cells.append(cell)
        else:
            names = _symbols(cell) if "code-summary" in option else []
            cells += [new_markdown_cell(f"### `{name}`") for name in names]
            cells += _code_cell(cell, option)
    nb.cells = cells
    nb.metadata = dict(kernelspec=dict(name="python3", display_name="python3", language="python"),
                       language_info=dict(name="python", pygments_lexer="ipython3"))
    return nb


def _code(cell: NotebookNode) -> str: # Without directives
    return re.sub(r"^#\|.*\n?", "", cell.source, flags=re.M).strip()


def _symbols(cell: NotebookNode) -> list[str]: # Public names that a cell defines, as nbdev has them
    kinds = ast.FunctionDef, ast.ClassDef
    names = [showdoc_nm(node) for node in ast.parse(_code(cell)).body if isinstance(node, kinds)]
    return [name for name in names if name[0] != "_"]


def _title(frontmatter: str) -> NotebookNode:
    head = yaml.safe_load(frontmatter.strip().strip("-"))
    return new_markdown_cell(f"# {head['title']}\n\n{{.lead}}\n{head.get('description', '')}")


def _code_cell(cell: NotebookNode, option: dict[str, str]) -> list[NotebookNode]:
    "Code if it is to be seen, outputs that mean something on a page; printed Markdown becomes text"
    live = "application/vnd.jupyter.widget-view+json"
    cell.source = _code(cell)
    cell.outputs = [output for output in cell.outputs if live not in output.get("data", {})]
    if "fig-alt" in option: cell.metadata["mystnb"] = dict(image=dict(alt=option["fig-alt"]))
    if option.get("echo") != "false": return [cell] if cell.source else []
    cell.metadata["tags"] = ["remove-input"] + (["recorded"] if "recorded" in option else [])
    texts = [o.data["text/markdown"] for o in cell.outputs if "text/markdown" in o.get("data", {})]
    if not texts: return [cell] if cell.outputs else []
    text = re.sub(r"\[source\]\(.*?\)\{.*?\}", "", "\n\n".join(texts)).removeprefix("---\n")
    return [new_markdown_cell(text.strip(), metadata=cell.metadata)]


# Links between pages

def relink(
    found: Pages, # Changed in place
) -> None:
    "Links that nbdev made to the site's address, and links to .html, lead to the page's notebook"
    config = get_config()
    address = re.escape(config.doc_host + config.doc_baseurl)
    doclink = re.compile(rf"\[(`[^`]+`)\]\({address}/([\w/]+)\.html#?([\w.]*)\)")
    anchors = {name: _anchors(page) for name, page in found.items()}
    for name, page in found.items():
        def local(link: re.Match) -> str:
            text, target, symbol = link.groups()
            if target not in found: return text
            own, parent = symbol.replace(".", ""), symbol.split(".")[0]
            near = [anchor for anchor in (own, parent) if anchor in anchors[target]]
            path = os.path.relpath(f"{target}.ipynb", Path(name).parent)
            return f"[{text}]({path}{'#' + near[0] if near else ''})"

        for cell in page.cells:
            if cell.cell_type != "markdown": continue
            cell.source = re.sub(r"(\]\((?!\w+:)[^)\s]*)\.html", r"\1.ipynb", doclink.sub(local, cell.source))


def _anchors(page: NotebookNode) -> set[str]: # Of the headings, as myst makes them
    text = "\n".join(cell.source for cell in page.cells if cell.cell_type == "markdown")
    heads = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}


# The site

def contents(
    names: list[str], # Of all pages
) -> list[NotebookNode]: # Cells that list them, for the start page
    "The table of contents: rooms as captions, pages in the order in which they build on each other"
    rooms = {}
    for name in sorted(set(names) - {"index"}, key=_reading_order):
        room = name.split("/")[:-1] or [name]
        rooms.setdefault(" · ".join(room).capitalize(), []).append(name)
    return [new_markdown_cell("\n".join(
        ["```{toctree}", ":hidden:", f":caption: {room}", "", *inside, "```"]))
        for room, inside in rooms.items()]


def _reading_order(name: str) -> tuple:
    "Rooms as listed; modules after those they import; papers as the Snakefile names them"
    room, stem = name.split("/")[0], name.split("/")[-1]
    rank = ROOMS.index(room) if room in ROOMS else len(ROOMS)
    stages = (ROOT / "Snakefile").read_text() if room == "papers" else f"/{stem}.ipynb"
    step = stages.find(f"/{stem}.ipynb")
    return rank, step < 0, step, _depth(name), name


@cache
def _depth(name: str) -> int: # Longest chain of imports below this module within its room
    path = ROOT / "logex_nb" / f"{name}.py"
    code = path.read_text() if path.exists() else ""
    below = re.findall(r"^from \.(\w+) import", code, re.M)
    return 1 + max((_depth(f"{Path(name).parent}/{module}") for module in below), default=0)


def mathjax(
    folder: Path, # Where the pages look for it
) -> None:
    "MathJax and its fonts from the npm registry, once: formulas then need no network"
    cached, name = pooch.os_cache("logex_nb"), MATHJAX.split("/")[-1]
    try: archive = pooch.retrieve(MATHJAX, f"sha256:{MATHJAX_SHA256}", name, cached)
    except (OSError, ValueError) as e:
        sys.exit(f"error: no MathJax from {MATHJAX} ({e}): put that file at {cached / name}")
    wanted = r"package/es5/(tex-chtml\.js|output/chtml/fonts/woff-v2/[\w-]+\.woff)"
    with tarfile.open(archive) as tar:
        for member in tar:
            inside = re.fullmatch(wanted, member.name)
            if not (inside and member.isfile()): continue
            path = folder / inside[1]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(tar.extractfile(member).read())


def site() -> None:
    "Make _docs/ from nbs/ and results/; what sphinx warns of is an error"
    found = pages(ROOT / "nbs")
    relink(found)
    found["index"].cells += contents(list(found))
    for folder in (SOURCES, SITE): shutil.rmtree(folder, ignore_errors=True)
    for name, page in found.items():
        path = SOURCES / f"{name}.ipynb"
        path.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(page, path)
    mathjax(SOURCES / "_static" / "mathjax")
    options = ["-W", "--keep-going", "-q", "-c", ROOT / "docs", "-d", SOURCES / ".doctrees"]
    if build_main([str(option) for option in ["-b", "html", *options, SOURCES, SITE]]):
        sys.exit("error: sphinx found fault with the pages, as told above")
    print(f"{len(found)} pages: open {SITE / 'index.html'}")


# The README

def readme(
    path: Path, # File to write
) -> None:
    "README.md from nbs/index.ipynb, links and pictures as seen from the root of the repository"
    found = pages(ROOT / "nbs", "index.ipynb")
    relink(found)
    parts = []
    for cell in found["index"].cells:
        text = _from_root(cell.source) if cell.cell_type == "markdown" else _pictures(cell)
        if "recorded" in cell.metadata.get("tags", []): text = f"{RECORDED}\n{text}\n\n{RECORDED}"
        parts.append(text.replace("{.lead}\n", "> "))
    parts.insert(1, "<!-- made from nbs/index.ipynb by `make readme`: edit that -->")
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _from_root(text: str) -> str: # Links that lead from nbs/ lead from above it
    def moved(link: re.Match) -> str: return f"]({os.path.normpath(f'nbs/{link[1]}')}"
    return re.sub(r"\]\((?!\w+:|#)([^)\s]+)", moved, text)


def _pictures(cell: NotebookNode) -> str:
    "For each picture, a link to the recorded file that holds the very same"
    files = {path.read_bytes(): path for path in sorted((ROOT / "results").rglob("*.png"))}
    shown = [o.data["image/png"] for o in cell.outputs if "image/png" in o.get("data", {})]
    found = [files.get(base64.b64decode(picture)) for picture in shown]
    if None in found: raise ValueError("a picture of the index is not in results/: use Image(path)")
    alt = cell.metadata["mystnb"]["image"]["alt"] if "mystnb" in cell.metadata else ""
    return "\n\n".join(f"![{alt}]({path.relative_to(ROOT).as_posix()})" for path in found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="?", choices=["site", "readme"], default="site",
                        help="the site in _docs/ (default) or README.md")
    parser.add_argument("--to", type=Path, default=ROOT / "README.md", help="where the README goes")
    given = parser.parse_args()
    to = given.to.absolute()
    os.chdir(ROOT) # where nbdev finds its settings
    site() if given.what == "site" else readme(to)


if __name__ == "__main__": main()
