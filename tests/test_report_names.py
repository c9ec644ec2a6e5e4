"Names that people give to classes, in figures and tables: no sign of them is read as markup, and each has a font or is told"
import re
from pathlib import Path
from types import SimpleNamespace

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from matplotlib.cbook import is_math_text
from matplotlib.text import Text

from logex_nb.data.lettering import as_is, families, without_font
from logex_nb.data.protocols import plot_long_tail
from logex_nb.data.tiles import Tiles, contact_sheet
from logex_nb.report.figures import class_plot, embedding_plot, heat_map, image_grid, predictions_sheet
from logex_nb.report.tables import summarise, write_results
from logex_nb.run.workflow import _fonts

NAMES = [r"low $ and \bad{ $ risk", "$x$", r"\$5 or $6", "_under_", "<b> & 50 % | #1"]
IMAGES = np.zeros((len(NAMES), 8, 8, 3), np.uint8)
PER_CLASS = pd.DataFrame([(m, c, 50.) for m in "ab" for c in NAMES], columns=["method", "class", "recall"])
SPLIT = pd.DataFrame(dict(label=NAMES, class_id=range(5), part="head", split="train", group=NAMES))
FIGURES = dict(
    grid=lambda: image_grid(IMAGES, NAMES), predictions=lambda: predictions_sheet({"a": IMAGES}, {"a": NAMES[::-1]}, NAMES),
    heat=lambda: heat_map(pd.DataFrame(np.eye(5), NAMES, NAMES)), classes=lambda: class_plot(PER_CLASS, "recall", dict(zip(NAMES, range(9, 4, -1)))),
    embedding=lambda: embedding_plot({"t-SNE": np.eye(5)[:, :2]}, np.arange(5), NAMES), tail=lambda: plot_long_tail(SPLIT),
    sheet=lambda: contact_sheet(Tiles(IMAGES, SPLIT, NAMES)))


@pytest.mark.parametrize("figure", FIGURES)
def test_a_name_is_no_formula(figure):
    fig = FIGURES[figure]()
    fig.canvas.draw()
    texts = [t.get_text() for t in fig.findobj(Text) if not t.get_text().startswith(r"$\mathdefault")] # numbers on a log axis
    assert not [t for t in texts if is_math_text(t)]
    shown = re.sub(r"\s", "", "".join(texts)).replace(r"\$", "$")
    assert all(re.sub(r"\s", "", name).replace(r"\$", "$") in shown for name in NAMES), texts


def test_pages_print_names_as_they_are():
    nbs, bare = Path(__file__).parent.parent / "nbs", []
    for path in sorted([*nbs.glob("papers/*/*.ipynb"), *nbs.glob("stages/*.ipynb")]):
        code = "\n".join(c.source for c in nbformat.read(path, 4).cells if c.cell_type == "code")
        bare += [f"{path.name}: {line}" for line in re.findall(r"set_\w+\((?:noun|nouns|\w+\.classes|\w+\.table\.label)\b.*", code)]
    assert not bare


@pytest.mark.parametrize("name", NAMES)
def test_a_name_in_tables(tmp_path, name):
    runs = pd.DataFrame([("e", "p", "d", name, -1, 0, "auroc", 90.)], columns="paper profile dataset arm fold seed metric value".split())
    write_results(tmp_path, summarise(runs))
    markdown, tex = (tmp_path / "table.md").read_text().splitlines()[2], (tmp_path / "table.tex").read_text()
    assert len(re.findall(r"(?<!\\)\|", markdown)) == 3 and "<" not in markdown
    line = next(line for line in tex.splitlines() if "90.0 (1)" in line)
    assert not re.search(r"(?<!\\)[%#_]|(?<!\\)\$(?!\\)", line) and len(re.findall(r"(?<!\\)&", line)) == 1, line


@pytest.fixture
def font(tmp_path, monkeypatch):
    "A font of one Chinese sign, as if it were installed"
    pen, build = TTGlyphPen(None), FontBuilder(1000, isTTF=True)
    for point in ((0, 0), (0, 900), (900, 900), (900, 0)): (pen.lineTo if point != (0, 0) else pen.moveTo)(point)
    pen.closePath()
    build.setupGlyphOrder([".notdef", "sign"])
    build.setupCharacterMap({ord("痣"): "sign"})
    build.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "sign": pen.glyph()})
    build.setupHorizontalMetrics({".notdef": (1000, 0), "sign": (1000, 0)})
    build.setupHorizontalHeader(ascent=900, descent=-100)
    build.setupNameTable(dict(familyName="Noto Sans CJK SC", styleName="Regular"))
    build.setupOS2(), build.setupPost()
    build.save(tmp_path / "one.ttf")
    listed = [f for f in font_manager.fontManager.ttflist if f.name in ("DejaVu Sans", "DejaVu Serif")]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", listed)
    yield lambda: font_manager.fontManager.addfont(tmp_path / "one.ttf")
    font_manager.fontManager._findfont_cached.cache_clear()


def test_a_font_is_used_or_asked_for(font, recwarn):
    assert without_font(["naevus", "Nävus", "родинка", "ελιά", "שומה"]) == ""
    told = without_font(["mel", "痣"])
    assert told.startswith("no font is installed for 痣: figures show boxes instead; install one") and "\n" not in told
    font()
    assert without_font(["mel", "痣"]) == "" and families() == ["sans-serif", "Noto Sans CJK SC"]
    with plt.rc_context({"font.family": families()}):
        fig = image_grid(IMAGES[:1], ["痣 mel"])
        fig.canvas.draw()
    assert not [w for w in recwarn if "missing from font" in str(w.message)]


def test_a_run_gives_its_stages_the_fonts(font, tmp_path, capsys):
    study = lambda *classes: SimpleNamespace(absent="", source=SimpleNamespace(open=lambda: SimpleNamespace(classes=classes)), runs=tmp_path)
    assert _fonts(study("mel", "bcc"), False) == {} and not capsys.readouterr().out
    assert _fonts(study("mel", "痣"), True) == {} and capsys.readouterr().out.startswith("warning: no font is installed for 痣")
    font()
    given = _fonts(study("mel", "痣"), False)
    assert not capsys.readouterr().out and Path(given["MATPLOTLIBRC"]).read_text() == "font.family: sans-serif, Noto Sans CJK SC\n"


def test_as_is():
    assert as_is("a $b$") == r"a \$b\$" and as_is(3) == "3"
