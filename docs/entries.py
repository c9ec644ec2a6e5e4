"""A small sphinx extension: entries for symbols, and code whose long lines wrap.

A cell `{entry} function logex_nb.detect.scores energy` under a heading, written by build.py, puts the symbol
into the index and into objects.inv, where other projects find it by intersphinx.
"""
import re
from collections.abc import Iterable, Iterator

from docutils import nodes
from pygments.formatters import HtmlFormatter
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.highlighting import PygmentsBridge
from sphinx.transforms import SphinxTransform
from sphinx.util.docutils import SphinxDirective


class placeholder(nodes.Element):
    "Stands under a heading until the page is read"


class Entry(SphinxDirective):
    "Kind, module and name of the symbol that the heading above is about; a module has no further name"
    required_arguments = 2
    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        kind, *parts = self.arguments
        line = parts[0] if kind == "module" else f"{parts[1]} (in {parts[0]})"
        return [placeholder(kind=kind, name=".".join(parts), line=line)]


class Enter(SphinxTransform):
    "Entries become anchors of their headings, objects of the Python domain and lines of the index"
    default_priority = 700 # before the index is collected

    def apply(self) -> None:
        python = self.env.domains.python_domain
        for node in list(self.document.findall(placeholder)):
            node.parent["ids"].append(node["name"])
            python.note_object(node["name"], node["kind"], node["name"], location=node)
            if node["kind"] == "module": python.note_module(node["name"], node["name"], "", "", False)
            node.replace_self(addnodes.index(entries=[("single", node["line"], node["name"], "", None)]))


class Lines(HtmlFormatter):
    "Each line is an element that knows its indentation, so that the rest of a long one can hang below it"

    def wrap(self, source: Iterable[tuple[int, str]]) -> Iterator[tuple[int, str]]:
        return super().wrap((is_line, _line(html) if is_line else html) for is_line, html in source)


def _line(html: str) -> str:
    text = re.sub(r"<[^>]+>", "", html)
    indent = len(text) - len(text.lstrip(" "))
    style = f' style="--indent: {indent}"' if indent else ""
    return f'<span class="line"{style}>{html}</span>'


def setup(app: Sphinx) -> dict:
    app.add_directive("entry", Entry)
    app.add_transform(Enter)
    PygmentsBridge.html_formatter = Lines
    return dict(version="1", parallel_read_safe=True)
