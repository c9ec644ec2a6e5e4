"Kriegsmann's tissue, played by a miniature in the official layout, and the lists published with LoGex"
import csv
import os
import shutil
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from logex_nb.core import sha256
from logex_nb.data.archives import Kriegsmann, Remote
from logex_nb.data.catalogue import SOURCES, find_source
from logex_nb.data.protocols import Protocol, crossing, leaked, make_split
from logex_nb.phantom.histology import CLASSES, HEAD
from logex_nb.run.study import Study, noun
from logex_nb.run.workflow import snakemake_arguments
from test_data_archives import Server, served # noqa: F401, a fixture
from test_data_hostile import fails

PUBLISHED = Protocol(kind="logex_published")
VAL, TEST = Kriegsmann.val, Kriegsmann.test
FOLDERS = Kriegsmann().nouns
Image.new("RGB", (2, 2)).save(drawn := BytesIO(), "PNG") # decoders look at contents, not at names
PNG = drawn.getvalue()
LABELS = Path(os.environ.get("LOGEX_LABELS", "none")) # The folder of the published label files, on a machine that has them


def tiles(per_case=8):
    "A line for each tile: four cases of training images, two of validation and of test"
    cases = [("Train", 11), ("Train", 12), ("Train", 13), ("Train", 14), ("Validation", 21), ("Validation", 22), ("Test", 31), ("Test", 32)]
    rows = [(f"data/tiles/{folder}/{folder}_ws_{case}_{tile}.jpg", folder, "ws", tile, name, case)
            for folder in FOLDERS for name, case in cases for tile in range(per_case)]
    return pd.DataFrame(rows, columns=["file", "class", "tma", "tile_num", "set", "case"]).assign(malignicy="?", size_x=395, size_y=395)


def write(top, table, place="data"):
    "The table and a tile for each line, and the same bytes for no two of them"
    for i, file in enumerate(table.file.unique()):
        path = top / place / Path(file).relative_to("data")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(PNG + str(i).encode()) # what follows a picture is not read
    table.to_csv(top / place / "tiles-v2.csv", index=False)
    return top


def lists(top, table, **change):
    "Label files with the columns of the published ones: two tiles of each class, and repeated rows"
    one_hot = pd.get_dummies(table["class"])[sorted(FOLDERS)]
    whole = pd.concat([table, one_hot], axis=1).assign(id=table.file)
    for name, part, repeated in ((VAL, "Validation", 4), (TEST, "Test", 0)):
        rows = whole[whole.set == part].groupby("class").head(2)
        rows = pd.concat([rows, rows[-1:], rows[-2:-1], rows[-1:], rows[-2:-1]][:1 + repeated])
        change.get(name, lambda rows: rows)(rows).to_csv(top / name)
    return top


@pytest.fixture(scope="module")
def skin(tmp_path_factory):
    top = tmp_path_factory.mktemp("skin")
    return lists(write(top, tiles()), tiles())


def opened(top, **settings):
    with pytest.warns(UserWarning, match="4 of its 36 rows: each image counts once"): return Kriegsmann(top, **settings).open()


# ---- the archive

@pytest.mark.parametrize("place", ["data", "data/data", "."])
def test_official_layouts(tmp_path, place):
    data = find_source(f"kriegsmann:{write(tmp_path, tiles(2), place)}").open()
    assert data.name == "kriegsmann" and "10.11588/data/7QCR8S" in data.licence
    assert data.table.label.value_counts().to_dict() == dict.fromkeys(CLASSES, 16)
    assert data.table.split.value_counts().to_dict() == dict(train=128, val=64, test=64)
    assert set(data.table.label[data.table.part == "head"]) == set(HEAD)
    names = data.table.image.map(lambda image: Path(image).stem)
    assert (names.str.split("_").str[-2] == data.table.group).all() and data.table.group.nunique() == 8
    assert data.read(data.table[:2], 4).shape == (2, 4, 4, 3) and "listed" not in data.table


def test_nouns_are_what_a_prompt_needs(skin):
    data = opened(skin)
    assert {noun(c) for c in data.classes} == set(CLASSES)
    first = [name.split()[0] for name in HEAD]
    assert len(set(first)) == len(HEAD) # Dream-OOD replaces the first token
    literal = opened(skin, as_published=True)
    assert set(literal.classes) - set(data.classes) == {"sebaceousglands", "chrondal tissue"}


def test_a_class_that_is_missing(tmp_path):
    table = tiles(1)
    write(tmp_path, table[table["class"] != "nontumor_skin_vessel_vessel"])
    with fails("tiles-v2.csv of kriegsmann has no tile of 'nontumor_skin_vessel_vessel', and of 1 classes in all: take the whole archive"): Kriegsmann(tmp_path).open()


def test_an_unknown_class_and_an_unknown_set(tmp_path):
    table = tiles(1)
    write(tmp_path, pd.concat([table, table[:1].assign(**{"class": "tumor_skin_new"})]))
    with fails("unknown label 'tumor_skin_new' of image"): Kriegsmann(tmp_path).open()
    write(tmp_path, table.assign(set=table.set.replace("Test", "Holdout")))
    with fails("unknown split 'holdout' of image"): Kriegsmann(tmp_path).open()


def test_a_missing_tile_is_named(tmp_path):
    write(tmp_path, tiles(1))
    (gone,) = tmp_path.rglob("tumor_skin_naevus_naevus_ws_31_0.jpg")
    gone.unlink()
    with fails("first 'data/tiles/tumor_skin_naevus_naevus/tumor_skin_naevus_naevus_ws_31_0.jpg': download data.zip from https://doi.org", FileNotFoundError):
        Kriegsmann(tmp_path).open()
    with fails("no tiles-v2.csv below", FileNotFoundError): Kriegsmann(tmp_path / "none").open()


def test_a_name_of_another_case_is_said(tmp_path):
    write(tmp_path, tiles(1).assign(case=lambda t: t.case.mask(t.index == 3, 99)))
    with pytest.warns(UserWarning, match="1 tiles of kriegsmann have another case in their name"): data = Kriegsmann(tmp_path).open()
    assert data.table.group[3] == "99"


# ---- the label files

def test_lists_that_do_not_fit(skin, tmp_path):
    write(tmp_path, tiles())
    cases = [
        (TEST, lambda rows: rows.assign(file=rows.file.str.replace("_31_0.jpg", "_31_77.jpg")), f"{TEST} lists 16 tiles that kriegsmann does not have, first 'nontumor"),
        (TEST, lambda rows: rows.assign(**{"class": "tumor_skin_naevus_naevus"}), f"{TEST} calls 30 tiles otherwise than kriegsmann, first"),
        (TEST, lambda rows: rows.drop(columns="file"), "has no column file"),
        (TEST, lambda rows: pd.read_csv(tmp_path / VAL)[:1], f"is in {VAL} and in {TEST}")]
    for name, change, message in cases:
        lists(tmp_path, tiles(), **{name: change})
        with pytest.warns(UserWarning), fails(message): Kriegsmann(tmp_path).open()
    (tmp_path / TEST).unlink()
    with pytest.warns(UserWarning), fails(f"no {TEST} below", FileNotFoundError): Kriegsmann(tmp_path).open()
    (tmp_path / VAL).unlink()
    with fails("kriegsmann has no images that are listed for validation and test: put the two label files"): make_split(Kriegsmann(tmp_path).open(), PUBLISHED)


def test_a_list_against_the_official_split(tmp_path):
    table = tiles()
    write(tmp_path, table.assign(set=table.set.mask(table.index == 6 * 8, "Train")))
    lists(tmp_path, table)
    with fails("is listed for test, and in the official split 'train'"): make_split(opened(tmp_path), PUBLISHED)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_published_protocol(skin, seed):
    data = opened(skin)
    split = make_split(data, replace(PUBLISHED, seed=seed))
    where = split.set_index(split.image.map(lambda image: Path(image).name)).split
    for name, part in ((VAL, "val"), (TEST, "test")):
        with open(skin / name) as f: published = {Path(row["id"]).name for row in csv.DictReader(f)}
        assert set(where.index[where == part]) == published and len(published) == 32
    official = tiles().set_index(tiles().file.map(lambda file: Path(file).name)).set
    assert set(where.index[where.isin(["test", "test_rest"])]) == set(official.index[official == "Test"])
    assert set(where.index[where.isin(["train", "pool"])]) == set(official.index[official == "Train"])
    counts = split.groupby(["part", "label", "split"]).size().unstack(fill_value=0)
    assert set(counts.loc["tail"].train) == {10} and set(counts.loc["tail"].pool) == {22}
    assert set(counts.loc["head"].train) == {32} and set(counts.loc["head"].pool) == {0}
    assert split[(split.split == "train") & (split.part == "tail")].groupby("label").group.nunique().min() == 4 # shots from every case
    assert leaked(split) == crossing(split) == 0
    assert list(split.split.unique()) == ["train", "val", "test", "test_rest", "pool"] # the full test set is one run of rows


def test_seeds_draw_other_shots(skin):
    data = opened(skin)
    shots = [set(make_split(data, replace(PUBLISHED, seed=s)).query("split == 'train' and part == 'tail'").image) for s in (0, 0, 1)]
    assert shots[0] == shots[1] != shots[2]


def test_caps_of_the_published_protocol(skin):
    split = make_split(opened(skin), replace(PUBLISHED, shots=3, head_train=5, pool=2))
    counts = split.groupby(["part", "split"]).size()
    assert counts.to_dict() == {("head", "train"): 20, ("head", "val"): 8, ("head", "test"): 8, ("head", "test_rest"): 56, ("tail", "train"): 36, ("tail", "pool"): 24,
                                ("tail", "val"): 24, ("tail", "test"): 24, ("tail", "test_rest"): 168}
    with fails("has 32 images in split 'train', 40 needed"): make_split(opened(skin), replace(PUBLISHED, shots=40))


def test_a_case_on_two_sides_is_a_number(tmp_path):
    "Published images are taken as they are; half of the test tiles are of a case that trains, and how many is known"
    table = tiles()
    shared = table.assign(case=table.case.replace(31, 11))
    write(tmp_path, shared.assign(file=[f.replace("_ws_31_", "_ws_11_9") for f in shared.file]))
    lists(tmp_path, shared.assign(file=[f.replace("_ws_31_", "_ws_11_9") for f in shared.file]))
    split = make_split(opened(tmp_path), PUBLISHED)
    assert crossing(split) == pytest.approx(split.group.eq("11").mean()) and leaked(split) == 1
    with fails("group '11' is in splits ['train', 'test']"): make_split(opened(tmp_path), Protocol())


@pytest.mark.parametrize("cut", [False, True])
def test_an_official_split_is_whole_or_cut(skin, cut):
    split = make_split(opened(skin), Protocol(val_head=9, val_tail=3, test=5, cut=cut))
    counts = split.groupby(["part", "split"]).size() // split.groupby("part").label.nunique()
    wanted = dict(head=(32, 9, 5), tail=(10, 3, 5)) if cut else dict(head=(32, 16, 16), tail=(10, 16, 16))
    assert {p: tuple(counts[p][["train", "val", "test"]]) for p in wanted} == wanted


@pytest.mark.skipif(not LABELS.is_dir(), reason="the published label files are not in the project: LOGEX_LABELS names their folder")
def test_the_real_label_files(tmp_path):
    "The 520 and 1056 published rows beside a training set that is made up"
    real = pd.concat([pd.read_csv(LABELS / name) for name in (VAL, TEST)]).drop_duplicates("file")
    made = tiles()[lambda t: t.set == "Train"]
    write(tmp_path, pd.concat([real, made])[[*made.columns]])
    for name in (VAL, TEST): (tmp_path / name).write_bytes((LABELS / name).read_bytes())
    with pytest.warns(UserWarning, match=f"{VAL} repeats 4 of its 520 rows"): split = make_split(Kriegsmann(tmp_path).open(), PUBLISHED)
    counts = split.groupby(["part", "split"]).size()
    assert (counts["head"]["val"], counts["tail"]["val"], counts["head"]["test"], counts["tail"]["test"]) == (400, 116, 264, 792)
    assert (split[split.label == "elastosis"].split == "val").sum() == 6 and crossing(split) == 0


# ---- the study

def test_a_pool_is_what_remains(skin):
    "Known from the protocol, before an archive is opened"
    assert Study("logex", "paper", "kriegsmann:/nowhere").pool and not Study("logex", "paper", "phantom").pool


@pytest.mark.parametrize("target", [name for name, about in Study("logex", "paper", "phantom").about["targets"].items() if about.get("pool")])
def test_a_target_that_needs_a_pool_says_so(target):
    "In one line, before anything runs; other targets and everything else can be had"
    study = Study("logex", "paper", "phantom") # whose protocol sets no pool
    with fails(f"logex_{target} need a pool, and phantom has none: set `pool` in [protocol] of the profile"): snakemake_arguments(study, ["table1", target])
    assert snakemake_arguments(study, ["all"]) and snakemake_arguments(study, ["table1"])


# ---- fetching

def test_a_dry_run_says_what_would_come(tmp_path, capsys):
    for word, kind in SOURCES.items():
        if not hasattr(kind, "fetch"): continue
        source = kind(tmp_path / word)
        source = source if word != "ham10000" else type("Played", (kind,), dict(remotes=(Remote("a.csv", "http://127.0.0.1:9/a.csv", "md5:0"),)))(tmp_path / word)
        if word == "kriegsmann": continue # below, from a server
        source.fetch(dry=True)
        told = capsys.readouterr().out
        assert source.licence in told and ("from http://127.0.0.1:9/a.csv, md5:0" if word == "ham10000" else f"by hand into {tmp_path / word}") in told
    assert list(tmp_path.iterdir()) == []


def test_the_zip_comes_with_a_checksum_that_is_given(served, tmp_path, capsys):
    server, folder = served
    write(tmp_path / "made", tiles(1), "in/data")
    (tmp_path / "made/in/data/class_dict.json").write_bytes(os.urandom(1 << 20))
    shutil.make_archive(folder / "data", "zip", tmp_path / "made/in")
    played = type("Played", (Kriegsmann,), dict(remotes=(Remote("data.zip", f"{server.url}/data.zip", ""),)))(tmp_path / "got")
    played.fetch(dry=True)
    assert "data.zip: about 3.7 GB from" in capsys.readouterr().out # this server answers no HEAD
    with fails("no checksum of data.zip is known here: download data.zip from https://doi.org/10.11588/data/7QCR8S"): played.fetch()
    with fails("does not have the checksum sha256:000"): played.fetch(checksums={"data.zip": "sha256:" + 64 * "0"})
    right = {"data.zip": f"sha256:{sha256(folder / 'data.zip')}"}
    server.limit = 400_000
    with fails("repeat to continue", RuntimeError): played.fetch(checksums=right)
    server.limit = None
    played.fetch(checksums=right)
    assert server.asked[-1].startswith("bytes=262144-") and len(played.open().table) == 128
    played.fetch(dry=True)
    assert f"data.zip: is there, in {tmp_path / 'got/data'}" in capsys.readouterr().out
