"""The documentation, without Quarto: a site in _docs/, and README.md.

nbdev processes the notebooks: hidden cells go, cells marked `exec_doc` run, names become links.
This script makes plain pages of that in _docsrc/, and sphinx with myst-nb a site of the pages.
"""
import argparse
import ast
import base64
import hashlib
import os
import re
import shutil
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Iterable, Iterator
from functools import cache
from html import unescape
from pathlib import Path
from urllib.parse import unquote

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
ROOMS = dict( # In reading order, with the pages to begin with; further ones follow those that they import
    start_here="", tutorials="your_data files which_score watch_guidance trust objections diffuse_a_label", core="",
    phantom="histology", data="", detect="", classify="", generate="pipeline", judge="",
    adpm="noise theory views priors loop guesses denoiser diffusion", report="", run="",
    stages="data base autoencoder lora classifier features", papers="")
MATHJAX = "https://registry.npmjs.org/mathjax/-/mathjax-3.2.2.tgz"
MATHJAX_SHA256 = "1b9c0a1c44df864e915690558e72adb9cc5203360daefd385084ced3b6c64c09"
PICTURE = re.compile(r"data:image/(png|jpeg|gif);base64,([A-Za-z0-9+/=\s]+)")
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
    return {name: _plain(nbformat.read(path, 4), name) for name, path in found.items()}


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


def _plain(nb: NotebookNode, name: str) -> NotebookNode:
    "Title, text, code and outputs; the names of symbols are a heading over the code that defines them"
    shown = (c for c in nb.cells if c.cell_type == "code" and re.search(SHOWN, c.source, re.M))
    defined = {symbol for cell in shown for symbol in _symbols(cell)}
    module, cells, symbols = "logex_nb." + name.replace("/", "."), [], {}
    for cell in nb.cells:
        option = dict(re.findall(r"^#\| *([\w-]+):? *(.*)$", cell.source, re.M))
        again = re.match(r"show_doc\(([\w.]+)\)", _code(cell))
        if cell.cell_type == "raw": cells.append(_title(cell.source))
        elif cell.source.startswith("<!-- WARNING") or again and again[1] in defined: continue
        elif cell.cell_type == "markdown": cells.append(cell)
        else:
            found = _symbols(cell) if "code-summary" in option else {}
            if found: cells.append(_heading(module, found))
            symbols |= found
            cells += _code_cell(cell, option)
    if symbols: cells.insert(1, new_markdown_cell(f"```{{entry}} module {module}\n```"))
    nb.cells = cells
    nb.metadata = dict(kernelspec=dict(name="python3", display_name="python3", language="python"), symbols=symbols,
                       language_info=dict(name="python", pygments_lexer="ipython3"))
    return nb


def _code(cell: NotebookNode) -> str: # Without directives
    return re.sub(r"^#\|.*\n?", "", cell.source, flags=re.M).strip()


def _symbols(cell: NotebookNode) -> dict[str, tuple[str, str]]:
    "Kind of each public name that a cell defines, as nbdev has them, and what its docstring or comment says"
    found, lines = {}, _code(cell).splitlines()
    for node in ast.parse(_code(cell)).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            name = showdoc_nm(node)
            kind = "class" if isinstance(node, ast.ClassDef) else "method" if "." in name else "function"
            found[name] = kind, (ast.get_docstring(node) or "").split("\n")[0]
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            comment = lines[node.lineno - 1].partition(" # ")[2]
            found |= {target.id: ("data", comment) for target in targets if isinstance(target, ast.Name)}
    return {name: about for name, about in found.items() if not re.search(r"(^|\.)_", name)}


def _heading(module: str, symbols: dict[str, tuple[str, str]]) -> NotebookNode:
    names = ", ".join(f"`{name}`" for name in symbols)
    entries = [f"```{{entry}} {kind} {module} {name}\n```" for name, (kind, _) in symbols.items()]
    return new_markdown_cell("\n\n".join([f"### {names}", *entries]))


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
    "Links that nbdev made to the site's address lead to the symbol's entry; fragments are spelled as on the site"
    config = get_config()
    address = re.escape(config.doc_host + config.doc_baseurl)
    doclink = re.compile(rf"\[`([^`]+)`\]\({address}/([\w/]+)\.html#?([\w.]*)\)")

    def entry(link: re.Match) -> str:
        text, target, symbol = link.groups()
        known = found[target].metadata["symbols"] if target in found else {}
        near = [name for name in (symbol, symbol.split(".")[0]) if name in known]
        return f"{{py:obj}}`{text} <logex_nb.{target.replace('/', '.')}.{near[0]}>`" if near else f"`{text}`"

    def fragment(link: re.Match) -> str: return f"{link[1]}#{_anchor(link[2].replace('-', ' '))})"

    for cell in (cell for page in found.values() for cell in page.cells if cell.cell_type == "markdown"):
        cell.source = doclink.sub(entry, cell.source)
        cell.source = re.sub(r"(\]\((?!\w+:)[^)\s#]*)#([^)\s]+)\)", fragment, cell.source)


def _anchor(heading: str) -> str: # As myst makes it
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


# The site

def contents(
    names: Iterable[str], # Of all pages
) -> list[NotebookNode]: # Cells that list them, for the start page
    "The table of contents: rooms as captions, pages in the order in which they build on each other"
    rooms = {}
    for name in sorted(set(names) - {"index"}, key=_reading_order): rooms.setdefault(_caption(name), []).append(name)
    return [new_markdown_cell("\n".join(
        ["```{toctree}", ":hidden:", *([f":caption: {room}"] if room else []), "", *inside, "```"]))
        for room, inside in rooms.items()]


def _caption(name: str) -> str: # Of its room
    room, *inside = name.split("/")
    if room == "papers": return _paper(inside[0]).get("title", inside[0])
    return dict(start_here="", adpm="Label diffusion", symbols="Reference").get(room, room.capitalize())


def _reading_order(name: str) -> tuple:
    "Rooms and pages as listed, stages and targets as the paper's folder has them, then modules by their imports"
    room, stem = name.split("/")[0], name.split("/")[-1]
    paper = _paper(name.split("/")[1]) if room == "papers" else {}
    tables = [target.get("notebook", key) for key, target in paper.get("targets", {}).items()]
    first = [*ROOMS.get(room, "").split(), *paper.get("stages", {}), *tables]
    rank = list(ROOMS).index(room) if room in ROOMS else len(ROOMS)
    step = first.index(stem) if stem in first else len(first)
    return rank, paper.get("position", 0), name.split("/")[:-1], step, _depth(name), name


@cache
def _paper(folder: str) -> dict: # Its study.toml
    path = ROOT / "nbs" / "papers" / folder / "study.toml"
    return tomllib.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


@cache
def _depth(name: str) -> int: # Longest chain of imports below this module within its room
    path = ROOT / "logex_nb" / f"{name}.py"
    code = path.read_text() if path.exists() else ""
    below = re.findall(r"^from \.(\w+) import", code, re.M)
    return 1 + max((_depth(f"{Path(name).parent}/{module}") for module in below), default=0)


def symbols(
    found: Pages, # Of the whole site
) -> NotebookNode: # A page
    "Every public name by module, with what it is"
    parts = ["# Symbols\n\n{.lead}\nEvery public name of the package, by module",
             "Each name links to the cell that defines it. There is an {ref}`alphabetical index <genindex>`, too."]
    for name in sorted(found, key=_reading_order):
        if not (known := found[name].metadata["symbols"]): continue
        module = "logex_nb." + name.replace("/", ".")
        parts.append(f"## {{py:obj}}`{name.replace('/', '.')} <{module}>`\n\n| symbol | what it is |\n|---|---|")
        parts[-1] += "".join(f"\n| {{py:obj}}`{symbol} <{module}.{symbol}>` | {what.replace('|', chr(92) + '|')} |"
                             for symbol, (_, what) in known.items())
    page = nbformat.v4.new_notebook(cells=[new_markdown_cell(part) for part in parts])
    page.metadata = found["index"].metadata
    return page


def pictures_apart(
    page: NotebookNode, # Changed in place
    name: str, # Of the page, such as 'papers/logex/oracle'
    folder: Path, # Gets the pictures; `_static/pictures` of the site
) -> None:
    "Pictures that stand in the HTML of an output become files beside the page"
    def moved(picture: re.Match) -> str:
        content = base64.b64decode(picture[2])
        path = folder / f"{hashlib.sha256(content).hexdigest()[:16]}.{picture[1]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return f"{'../' * name.count('/')}_static/pictures/{path.name}"

    for output in (output for cell in page.cells for output in cell.get("outputs", [])):
        html = output.get("data", {}).get("text/html")
        if html: output["data"]["text/html"] = PICTURE.sub(moved, html)


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
    shown = {f"{name}.{symbol}" for name, page in found.items() for symbol in page.metadata["symbols"]}
    if missing := sorted(set(_exported()) - shown): sys.exit(f"error: no page shows {', '.join(missing)}")
    found["symbols"] = symbols(found)
    found["index"].cells += contents(found)
    for folder in (SOURCES, SITE): shutil.rmtree(folder, ignore_errors=True)
    for name, page in found.items():
        path = SOURCES / f"{name}.ipynb"
        path.parent.mkdir(parents=True, exist_ok=True)
        pictures_apart(page, name, SOURCES / "_static" / "pictures")
        nbformat.write(page, path)
    mathjax(SOURCES / "_static" / "mathjax")
    options = ["-W", "--keep-going", "-q", "-c", ROOT / "docs", "-d", SOURCES / ".doctrees"]
    if build_main([str(option) for option in ["-b", "html", *options, SOURCES, SITE]]):
        sys.exit("error: sphinx found fault with the pages, as told above")
    if dead := dead_links(SITE): sys.exit("error: links that lead nowhere:\n" + "\n".join(dead))
    print(f"{len(found)} pages: open {SITE / 'index.html'}")


def _exported() -> Iterator[str]: # Such as 'detect/scores.energy'
    for path in sorted((ROOT / "logex_nb").rglob("[!_]*.py")):
        code = path.read_text(encoding="utf-8")
        name = path.relative_to(ROOT / "logex_nb").with_suffix("").as_posix()
        for node in ast.parse(code).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                yield from (f"{name}.{symbol}" for symbol in ast.literal_eval(node.value))


def dead_links(
    folder: Path, # A site
) -> list[str]: # `page: link`, for each that leads to no file, or to no place in it
    "Every local link and picture of every page, followed"
    pages = [path for path in folder.rglob("*.html") if "_static" not in path.parts]
    texts = {path.resolve(): path.read_text(encoding="utf-8") for path in pages}
    places = {path: set(re.findall(r'\bid="([^"]+)"', text)) for path, text in texts.items()}
    dead = []
    for page, text in texts.items():
        for link in set(re.findall(r'\b(?:href|src)="([^"]+)"', text)):
            target, _, place = unquote(unescape(link)).partition("#")
            if re.match(r"\w+:|//", target): continue
            path = (page.parent / target.split("?")[0]).resolve() if target else page
            if not path.exists() or place and path in places and place not in places[path]:
                dead.append(f"{page.relative_to(folder.resolve())}: {link}")
    return sorted(dead)


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
