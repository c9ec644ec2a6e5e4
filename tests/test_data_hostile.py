"Bad input to datasets and splits: each is one line that says what was given and what is possible"
import os
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from logex_nb.core import configure
from logex_nb.data.catalogue import find_source
from logex_nb.data.sources import Phantom
from logex_nb.data.protocols import Protocol, make_split
from logex_nb.data.tiles import load_tiles, pack

SMALL = Protocol(head=1, shots=2, val_head=2, val_tail=2, test=2, size=8)


@pytest.fixture
def root(tmp_path):
    "Three classes with 12, 10 and 8 noise images"
    rng, folder = np.random.default_rng(0), tmp_path / "skin"
    for label, n in dict(melanoma=12, naevus=10, nerves=8).items():
        (folder / label).mkdir(parents=True)
        for i in range(n):
            Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(folder / label / f"{i}.png")
    return folder


def metadata(root, **columns):
    "A metadata.csv of all images; `columns` are functions of the table"
    table = pd.DataFrame([(p.relative_to(root).as_posix(), p.parent.name) for p in sorted(root.glob("*/*.png"))],
                         columns=["file_name", "label"])
    table = table.assign(**columns)
    table.to_csv(root / "metadata.csv", index=False)
    return table


def fails(message, kind=ValueError):
    "The error is of this kind, on one line, and has `message` in it"
    class Raises:
        def __enter__(self): return self
        def __exit__(self, got, error, trace):
            assert got is not None, "nothing was raised"
            assert issubclass(got, kind) and message in str(error) and "\n" not in str(error), repr(error)
            return True
    return Raises()


def opened(root): return find_source(f"folder:{root}").open()


@pytest.mark.parametrize("name", ["imagenet", "", "folder", "folder:", "npz:", "phantom:x", "http://x", "Folder:x"])
def test_unknown_kind(name):
    with fails("choose phantom, phantom_skin, folder:PATH, npz:PATH"): find_source(name).open()


def test_short_name_is_safe_in_paths(tmp_path):
    assert find_source(f"folder:{tmp_path}/a b;c/").name == "a_b_c"
    with fails("rename it"): find_source("folder:elsewhere/phantom").name


# ---- folders

def test_folder_missing(tmp_path):
    with fails("no image folder at", FileNotFoundError): find_source(f"folder:{tmp_path}/nowhere").open()


def test_folder_is_a_file(root):
    with fails("no image folder at", FileNotFoundError): find_source(f"folder:{root}/nerves/0.png").open()


def test_folder_empty(tmp_path):
    with fails("has 0 classes"): opened(tmp_path)


def test_folder_one_class(tmp_path):
    (tmp_path / "naevus").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "naevus/1.png")
    with fails("has 1 classes ['naevus']"): opened(tmp_path)


def test_class_folder_empty(root):
    (root / "vessels").mkdir()
    (root / "vessels/.DS_Store").touch()
    with fails("vessels is empty"): opened(root)


def test_harmless_files_are_skipped(root):
    for name in (".DS_Store", "README.md", "LICENSE", "naevus/.DS_Store", "naevus/._0.png"): (root / name).touch()
    (root / ".thumbs").mkdir()
    for name in ("__MACOSX/naevus", "naevus/@eaDir", "lost+found"): (root / name).mkdir(parents=True)
    for name in ("__MACOSX/naevus/._0.png", "naevus/@eaDir/0.png@x", "naevus/Thumbs.db", "nerves/desktop.ini"): (root / name).touch()
    assert len(opened(root).table) == 30 and opened(root).classes == ["melanoma", "naevus", "nerves"]


def test_foreign_file_in_class_folder(root):
    (root / "naevus/foo.txt").write_text("notes")
    with fails("naevus/foo.txt is not an image"): opened(root)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".bmp", ".webp"])
def test_truncated_image(root, suffix):
    path = root / f"naevus/cut{suffix}"
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])
    data = opened(root)
    with fails(f"naevus/cut{suffix}"): data.read(data.table, 8)


@pytest.mark.parametrize("content", [b"", b"this is no image", b"\x89PNG\r\n\x1a\n" + b"\0" * 40])
def test_text_called_png(root, content):
    (root / "naevus/zz.png").write_bytes(content)
    data = opened(root)
    with fails("naevus/zz.png"): data.read(data.table, 8)


def test_sixteen_bit_image(root):
    Image.fromarray(np.full((8, 8), 4000, np.uint16)).save(root / "naevus/deep.png")
    data = opened(root)
    with fails("over 8 bits"): data.read(data.table, 8)


def test_truncated_image_leaves_no_pack(root, tmp_path):
    data, folder = opened(root), tmp_path / "packed"
    split = make_split(data, SMALL)
    pack(data, split, folder, 8)
    path = root / split.image.iloc[-1]
    path.write_bytes(path.read_bytes()[:40])
    with fails(path.name): pack(data, split, folder, 8)
    with fails("has no split.csv", FileNotFoundError): load_tiles(folder)
    assert [p for p in folder.iterdir() if p.name.startswith(".")] == []


def test_pack_where_nothing_can_be_written(root, tmp_path):
    data = opened(root)
    (tmp_path / "file").touch()
    with fails("file", OSError): pack(data, make_split(data, SMALL), tmp_path / "file/packed", 8)


# ---- metadata.csv

def test_metadata_names_missing_file(root):
    table = metadata(root)
    table.replace("naevus/0.png", "naevus/77.png").to_csv(root / "metadata.csv", index=False)
    with fails("first 'naevus/77.png'", FileNotFoundError): opened(root)


@pytest.mark.parametrize("column", ["file_name", "label"])
def test_metadata_misses_column(root, column):
    metadata(root).drop(columns=column).to_csv(root / "metadata.csv", index=False)
    with fails(f"has no column {column}"): opened(root)


@pytest.mark.parametrize("content", [b"", b"file_name,label\n\"unclosed", b"\xff\xfe\x00\x01"])
def test_metadata_unreadable(root, content):
    (root / "metadata.csv").write_bytes(content)
    with fails("metadata.csv"): opened(root)


def test_metadata_without_rows(root):
    (root / "metadata.csv").write_text("file_name,label\n")
    with fails("has 0 classes"): opened(root)


def test_metadata_unknown_split(root):
    metadata(root, split="validation")
    with fails("unknown split 'validation' of image 'melanoma/0.png'"): opened(root)


def test_metadata_empty_split(root):
    metadata(root, split=lambda t: np.where(t.index == 3, "", "train"))
    with fails("unknown split ''"): opened(root)


def test_metadata_duplicate_and_unlabelled(root):
    table = metadata(root)
    pd.concat([table, table[:1]]).to_csv(root / "metadata.csv", index=False)
    with fails("'melanoma/0.png'"): opened(root)
    table.assign(label=table.label.where(table.index != 0, "")).to_csv(root / "metadata.csv", index=False)
    with fails("listed twice or has no label"): opened(root)


def test_class_called_na_stays_a_class(root):
    metadata(root, label=lambda t: t.label.replace("naevus", "NA"))
    data = opened(root)
    assert data.classes == ["NA", "melanoma", "nerves"]
    split = make_split(data, replace(SMALL, head=("melanoma",)))
    assert (split.label == "NA").sum() == 6


def test_class_head_and_tail(root):
    metadata(root, group=lambda t: np.where(t.index % 2, "head", "tail"))
    with fails("is head and tail"): opened(root)


def test_group_of_head_and_tail_is_no_patient(root):
    metadata(root, group=lambda t: np.where(t.label == "melanoma", "head", "tail"))
    data = opened(root)
    assert data.table.group.is_unique and set(data.table.part) == {"head", "tail"}
    assert set(make_split(data, replace(SMALL, head=None)).query("part == 'head'").label) == {"melanoma"}


@pytest.mark.parametrize("fold, message", [
    ("first", "fold 'first' of image 'melanoma/0.png'"), ("", "fold '' of image"), ("-1", "number the folds from 0"), ("1.0", "fold '1.0'")])
def test_fold_that_is_no_number(root, fold, message):
    metadata(root, fold=fold)
    with fails(message): opened(root)


def test_folds_of_a_folder_and_an_npz(root, tmp_path):
    metadata(root, fold=lambda t: t.index % 4)
    assert make_split(opened(root), Protocol(kind="folds", folds=4)).fold.value_counts().max() == 8
    np.savez(tmp_path / "toy.npz", **GOOD, fold=np.array([0, 0, 1, 1, 2, 2]))
    assert find_source(f"npz:{tmp_path}/toy.npz").open().table.fold.tolist() == [0, 0, 1, 1, 2, 2]


def official(t): return np.array(["train", "val", "test"])[t.groupby("label").cumcount() % 3]


def test_group_crosses_splits(root):
    metadata(root, split=official, group=lambda t: np.where(t.index < 2, "patient 7", t.file_name))
    with fails("group 'patient 7' is in splits ['train', 'val']"): make_split(opened(root), replace(SMALL, val_tail=1))


def test_official_split_too_small_for_shots(root):
    metadata(root, split=official)
    with fails("class 'nerves' has 3 images in split 'train', 4 needed"):
        make_split(opened(root), replace(SMALL, shots=4))


def test_official_split_without_validation(root):
    metadata(root, split=lambda t: np.where(t.index % 2, "train", "test"))
    with fails("images in split 'val', 1 needed"): make_split(opened(root), SMALL)


# ---- classes and counts

def test_fewer_images_than_shots(root):
    with fails("class 'nerves' has 8 images in 8 groups, too few for"): make_split(opened(root), replace(SMALL, shots=10))


@pytest.mark.parametrize("key", ["head", "tail"])
def test_unknown_class(root, key):
    cfg = replace(SMALL, **{"head": None, key: ("nervs",)})
    with fails(f"unknown {key} class 'nervs': choose from ['melanoma', 'naevus', 'nerves']"): make_split(opened(root), cfg)


@pytest.mark.parametrize("head", [0, 3, 99, ("melanoma", "naevus", "nerves")])
def test_no_tail_or_no_head(root, head):
    with fails("class is left"): make_split(opened(root), replace(SMALL, head=head))


def test_nobody_says_what_is_head(root):
    with fails("skin does not say which classes are head"): make_split(opened(root), replace(SMALL, head=None))


@pytest.mark.parametrize("key", ["shots", "val_head", "val_tail", "test", "pool", "head_train"])
def test_negative_counts(root, key):
    with fails(f"{key} is -1"): make_split(opened(root), replace(SMALL, **{key: -1}))


def test_unknown_key():
    with fails("unknown key 'shot'"): configure(Protocol, dict(shot=3), "[split]")


def test_copy_in_two_splits(root):
    metadata(root, split=official)
    (root / "naevus/1.png").write_bytes((root / "naevus/0.png").read_bytes())
    with fails("one and the same"): make_split(opened(root), replace(SMALL, tail=("naevus",), shots=4))


@pytest.mark.parametrize("key", ["head_per_class", "tail_per_class", "cases_per_class"])
def test_empty_phantom(key):
    with fails("at least one tile and one case"): Phantom(**{key: 0}).open()


# ---- npz

GOOD = dict(images=np.arange(6 * 4 * 5 * 3, dtype=np.uint8).reshape(6, 4, 5, 3), labels=np.array([0, 1, 0, 1, 1, 0]))


@pytest.mark.parametrize("change, message", [
    (dict(labels=np.array(["a", None, "a", "b", "b", "b"])), "save it as text or int"),
    (dict(images=np.array([np.zeros((4, 4, 3), np.uint8), None] * 3, dtype=object)), "save it as text or int"),
    (dict(images=GOOD["images"] / 255), "float64"),
    (dict(images=GOOD["images"].astype(np.int64)), "not uint8 [n,h,w,3]"),
    (dict(images=GOOD["images"][..., 0]), "not uint8 [n,h,w,3]"),
    (dict(labels=GOOD["labels"][:5]), "labels in"),
    (dict(labels=GOOD["labels"][:, None]), "expected (6,), one per image"),
    (dict(labels=GOOD["labels"] / 2), "expected integers or text"),
    (dict(labels=GOOD["labels"] * 0), "has 1 classes"),
    (dict(classes=np.array(["naevus"])), "do not match, see [1]"),
    (dict(classes=np.array(["naevus", "naevus"])), "do not match"),
    (dict(classes=np.array(["naevus", "nerves", "vessels"])), "do not match, see [2]"),
    (dict(labels=GOOD["labels"] - 1, classes=np.array(["naevus", "nerves"])), "do not match"),
    (dict(split=np.array(["train"] * 5)), "split in"),
    (dict(split=np.array(["training"] * 6)), "unknown split 'training'"),
    (dict(images=GOOD["images"][:, :0]), "not uint8 [n,h,w,3]"),
    (dict(mask=np.zeros((6, 4, 5), bool)), "has mask, and masks are read from a folder"),
    (dict(groups=np.arange(6)), "has a column 'groups', which is almost 'group'"),
    (dict(fold=np.array([0, 1, 2])), "fold in"),
    (dict(fold=np.array([0, 1, 2, 0, 1, -2])), "number the folds from 0"),
])
def test_npz(tmp_path, change, message):
    np.savez(tmp_path / "toy.npz", **(GOOD | change))
    with fails(message): find_source(f"npz:{tmp_path}/toy.npz").open()


def test_npz_missing_array(tmp_path):
    np.savez(tmp_path / "toy.npz", images=GOOD["images"], label=GOOD["labels"])
    with fails("no array labels"): find_source(f"npz:{tmp_path}/toy.npz").open()


def test_npz_is_none(tmp_path):
    with fails("no npz file at", FileNotFoundError): find_source(f"npz:{tmp_path}/toy.npz").open()
    (tmp_path / "toy.npz").write_text("no zip")
    with fails("cannot read npz file"): find_source(f"npz:{tmp_path}/toy.npz").open()
    with open(tmp_path / "toy.npz", "wb") as f: np.save(f, GOOD["images"])
    with fails("cannot read npz file"): find_source(f"npz:{tmp_path}/toy.npz").open()
    np.savez(tmp_path / "toy.npz", **GOOD)
    (tmp_path / "toy.npz").write_bytes((tmp_path / "toy.npz").read_bytes()[:300])
    with fails("cannot read npz file"): find_source(f"npz:{tmp_path}/toy.npz").open()


def test_npz_class_order(tmp_path):
    np.savez(tmp_path / "a.npz", **GOOD, classes=np.array(["nerves", "melanoma"]))
    assert find_source(f"npz:{tmp_path}/a.npz").open().classes == ["nerves", "melanoma"]
    np.savez(tmp_path / "b.npz", images=GOOD["images"], labels=np.array(list("baabba")))
    assert find_source(f"npz:{tmp_path}/b.npz").open().classes == ["a", "b"]
    np.savez(tmp_path / "c.npz", **GOOD)
    assert find_source(f"npz:{tmp_path}/c.npz").open().classes == ["0", "1"]


# ---- packs

def test_pack_of_other_length(root, tmp_path):
    data = opened(root)
    pack(data, make_split(data, SMALL), tmp_path / "packed", 8)
    np.save(tmp_path / "packed/images.npy", np.zeros((3, 8, 8, 3), np.uint8))
    with fails("has 3 images and"): load_tiles(tmp_path / "packed")


def test_subset_of_unknown_value(root, tmp_path):
    data = opened(root)
    tiles = pack(data, make_split(data, SMALL), tmp_path / "packed", 8)
    with fails("no label 'freckle': choose from"): tiles.subset(label="freckle")
    assert len(tiles.subset(split="val", part="tail", label="nerves")) == 2


# ---- almost right

@pytest.mark.parametrize("header", ["Group,Split", " group , SPLIT ", "GROUP,split"])
def test_columns_are_understood_whatever_their_case(root, header):
    group, split = header.split(",")
    metadata(root, **{group: lambda t: "p" + (t.index // 2).astype(str), split: "train"})
    data = opened(root)
    assert data.table.group.nunique() == 15 and set(data.table.split) == {"train"}


@pytest.mark.parametrize("column", ["patient_id", "Patient ID", "lesion_id"])
def test_a_patient_is_a_group(root, column):
    metadata(root, **{column: lambda t: "p" + (t.index // 2).astype(str)})
    assert opened(root).table.group.nunique() == 15


@pytest.mark.parametrize("column", ["Patient no.", "participant", "patient_ids", "slide_id", "MRN", "ＧＲＯＵＰ", "group\u200b"])
def test_other_words_for_a_patient(root, tmp_path, column):
    metadata(root, **{column: lambda t: "p" + (t.index // 2).astype(str)})
    assert opened(root).table.group.nunique() == 15
    np.savez(tmp_path / "toy.npz", **GOOD, **{column: np.arange(6) // 2})
    assert find_source(f"npz:{tmp_path}/toy.npz").open().table.group.nunique() == 3


@pytest.mark.parametrize("column", ["set", "Partition", "fold_name"])
def test_a_split_by_another_name_is_told(root, tmp_path, column):
    metadata(root, **{column: lambda t: np.where(t.index % 2, "Train", "test")})
    with fails(f"has a column {column!r} of ['test', 'train'], and none called split"): opened(root)
    np.savez(tmp_path / "toy.npz", **GOOD, **{column: np.array(["train", "test"] * 3)})
    with fails(f"has a column {column!r} of ['test', 'train']"): find_source(f"npz:{tmp_path}/toy.npz").open()


@pytest.mark.parametrize("slip", ["group_id", "mask_path", "fold_no"])
def test_a_column_with_an_ending_is_told(root, slip):
    metadata(root, **{slip: "1"})
    with fails(f"has a column {slip!r}, which is almost"): opened(root)


def test_a_column_that_is_there_twice(root):
    table = metadata(root)
    pd.concat([table, table[["label"]]], axis=1).to_csv(root / "metadata.csv", index=False)
    with fails("has columns 'label' and 'label.1': keep one"): opened(root)


def test_case_of_splits_and_parts(root):
    metadata(root, split="Train ", part=lambda t: np.where(t.label == "nerves", "TAIL", "Head"))
    assert set(opened(root).table.split) == {"train"} and set(opened(root).table.part) == {"head", "tail"}


@pytest.mark.parametrize("name", ["Metadata.csv", "labels.csv", "metadata.xlsx", "patients.TSV"])
def test_a_table_that_is_not_read_is_told(root, name):
    (root / name).write_text("image,patient")
    with fails(f"has {name}, which is not read: call it metadata.csv"): opened(root)


def test_a_table_with_a_cell_too_many_is_told_in_one_line(root):
    metadata(root)
    (root / "metadata.csv").write_text((root / "metadata.csv").read_text() + "\n,,,\n")
    with fails("cannot read"): opened(root)


@pytest.mark.parametrize("name", ["melanoma\\0.png", "./melanoma//0.png", "melanoma/../melanoma/0.png", " melanoma/0.png ", "{root}/melanoma/0.png"])
def test_one_file_has_one_name(root, name):
    table = metadata(root)
    table.replace("melanoma/0.png", name.format(root=root)).to_csv(root / "metadata.csv", index=False)
    assert list(opened(root).table.image) == list(table.file_name)
    table.replace("melanoma/1.png", name.format(root=root)).to_csv(root / "metadata.csv", index=False)
    with fails("'melanoma/0.png'"): opened(root)


def test_a_file_without_a_name(root):
    table = metadata(root)
    table.replace("melanoma/0.png", "").to_csv(root / "metadata.csv", index=False)
    with fails("names 1 missing files, first ''", FileNotFoundError): opened(root)


def test_two_columns_of_patients_are_refused(root):
    metadata(root, patient_id="1", lesion_id="2")
    with fails("'patient_id' and 'lesion_id', and none called group"): opened(root)


def test_a_slip_in_a_column_is_told(root):
    metadata(root, spilt="train")
    with fails("has a column 'spilt', which is almost 'split'"): opened(root)


@pytest.mark.parametrize("missing", ["", "nan", "NaN", "None", " ", "<NA>", "n.a.", "#N/A", "unknown", "--", "\u200b", "NaT"])
def test_an_unknown_patient_is_alone(root, tmp_path, missing):
    metadata(root, group=lambda t: np.where(t.index % 3, missing, "p1"))
    assert opened(root).table.group.value_counts().tolist() == [10] + [1] * 20
    np.savez(tmp_path / "toy.npz", **GOOD, group=np.array(["p1", "p1", missing, missing, "p2", "p2"]))
    assert find_source(f"npz:{tmp_path}/toy.npz").open().table.group.nunique() == 4


@pytest.mark.parametrize("other", ["Naevus", "naevus ", "nae-vus", "nae vus", "naevus\u200b", "\ufeffnaevus", "ｎａｅｖｕｓ", "_naevus", "naevus\u00a0"])
def test_names_that_are_almost_equal(root, other):
    metadata(root, label=lambda t: t.label.where(t.index != 15, other))
    if other.strip() == "naevus": assert opened(root).classes == ["melanoma", "naevus", "nerves"]
    else:
        with fails("are almost the same name"): opened(root)


def test_accents_are_one_spelling(root, tmp_path):
    metadata(root, label=lambda t: t.label.replace("naevus", "nævu\u0301s").where(t.index % 2 > 0, t.label.replace("naevus", "nævús")))
    assert opened(root).classes == ["melanoma", "nerves", "nævús"]
    np.savez(tmp_path / "toy.npz", **GOOD, classes=np.array(["ne\u0301 ", "b  c"]))
    assert find_source(f"npz:{tmp_path}/toy.npz").open().classes == ["né", "b c"]


@pytest.mark.parametrize("a, b", [("a/b", "a_b"), ("a.b", "a_b"), ("1", "01")])
def test_classes_that_would_share_a_folder(root, a, b):
    metadata(root, label=lambda t: t.label.replace({"naevus": a, "nerves": b}))
    with fails("are almost the same name"): opened(root)


def test_a_name_that_is_too_long(root):
    metadata(root, label=lambda t: t.label.replace("naevus", "n" * 300))
    with fails("has 300 letters, too many for a folder"): opened(root)


@pytest.mark.parametrize("name", [b"\xff.png", b"a\rb.png", b"a\nb.png"])
def test_a_file_name_that_is_no_text(root, name):
    (root / "naevus/0.png").rename(os.fsdecode(bytes(root) + b"/naevus/" + name))
    with fails("has a sign that is no text"): opened(root)


@pytest.mark.parametrize("label", ["שומה", "色素痣", "a b (c) 'd' \"e\" {noun} %s #1", "nan", "007"])
def test_names_of_all_kinds_come_through(root, tmp_path, label):
    metadata(root, label=lambda t: t.label.replace("naevus", label))
    tiles = pack(data := opened(root), make_split(data, replace(SMALL, head=("melanoma",))), tmp_path / "packed", 8)
    assert label in tiles.classes == data.classes


def test_a_picture_of_two_classes(root):
    (root / "naevus/0.png").write_bytes((root / "nerves/0.png").read_bytes())
    with fails("under the classes ['naevus', 'nerves']"): make_split(opened(root), Protocol(kind="folds", folds=3))


def test_a_picture_of_two_classes_that_nobody_uses(root):
    used = set(make_split(opened(root), SMALL).image)
    one, other = (next(p for p in sorted((root / label).iterdir()) if f"{label}/{p.name}" not in used) for label in ("naevus", "nerves"))
    other.write_bytes(one.read_bytes())
    with fails("under the classes ['naevus', 'nerves']"): make_split(opened(root), SMALL)


def test_a_picture_of_two_classes_in_an_npz(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (30, 4, 4, 3), np.uint8)
    images[29] = images[0]
    np.savez(tmp_path / "toy.npz", images=images, labels=np.arange(30) // 15)
    with fails("under the classes ['0', '1']"): make_split(find_source(f"npz:{tmp_path}/toy.npz").open(), replace(SMALL, test=1))


def test_copies_within_a_class_are_said_once(root):
    trio = [f"melanoma/{i}.png" for i in (0, 3, 6)]
    metadata(root, split=lambda t: np.where(t.file_name.isin(trio), "train", official(t)))
    for i in (3, 6): (root / f"melanoma/{i}.png").write_bytes((root / "melanoma/0.png").read_bytes())
    with pytest.warns(UserWarning, match="are one and the same") as told: make_split(opened(root), Protocol(kind="natural"))
    assert len(told) == 1


# ---- pixels

def one(root, image, name="naevus/odd.png", **how):
    image.save(root / name, **how)
    data = opened(root)
    return data.read(data.table[data.table.image == name], 8)[0]


def test_a_picture_is_upright(root):
    turned = Image.fromarray(np.uint8(np.indices((8, 8))[1] * 30)).convert("RGB")
    exif = turned.getexif()
    exif[0x0112] = 3
    assert one(root, turned, "naevus/odd.jpg", exif=exif, quality=95)[4, 0].mean() > 150


def test_what_is_transparent_is_white(root):
    assert (one(root, Image.new("RGBA", (8, 8), (255, 0, 255, 0))) == 255).all()
    grey = Image.new("LA", (8, 8), (0, 0))
    assert (one(root, grey) == 255).all()


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_of_colour_are_refused(root, suffix):
    import struct, zlib
    deep = np.full((8, 8, 3), 4000, ">u2")
    path = root / f"naevus/deep{suffix}"
    if suffix == ".png":
        chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        rows = b"".join(b"\0" + row.tobytes() for row in deep)
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0)) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))
    else:
        from skimage.io import imsave
        imsave(path, deep.astype("<u2"), check_contrast=False)
    data = opened(root)
    with fails(f"deep{suffix}"): data.read(data.table, 8)


def test_several_frames_are_refused(root):
    Image.new("RGB", (8, 8)).save(root / "naevus/stack.tif", save_all=True, append_images=[Image.new("RGB", (8, 8), "white")])
    data = opened(root)
    with fails("it has 2 frames"): data.read(data.table, 8)


@pytest.mark.parametrize("mode, white", [("1", 255), ("L", 255), ("P", 255), ("RGB", 255), ("LA", 255), ("CMYK", 0)])
def test_modes_of_one_white_picture(root, mode, white):
    image = Image.new("RGB", (8, 8), "white").convert(mode)
    suffix = "tif" if mode == "CMYK" else "png"
    assert (one(root, image, f"naevus/odd.{suffix}") == 255).all()


def test_a_palette_with_a_transparent_colour(root):
    image = Image.new("P", (8, 8), 3)
    image.putpalette([value for c in range(256) for value in (c, 0, c)])
    assert (one(root, image, transparency=3) == 255).all()
    assert (one(root, Image.new("RGB", (8, 8), (9, 9, 9)), transparency=(9, 9, 9)) == 255).all()


@pytest.mark.parametrize("name, how", [("odd.webp", {}), ("odd.png", {}), ("odd.png", dict(format="GIF"))])
def test_moving_pictures_are_refused(root, name, how):
    frames = [Image.new("RGB", (8, 8), c) for c in ("red", "blue")]
    with fails("it has 2 frames"): one(root, frames[0], f"naevus/{name}", save_all=True, append_images=frames[1:], **how)


def test_a_camera_s_pair_is_one_picture(root):
    one(root, Image.new("RGB", (8, 8)), "naevus/odd.jpg", format="MPO", save_all=True, append_images=[Image.new("RGB", (8, 8), "red")])


@pytest.mark.parametrize("most, told", [(1, "has no value above 1"), (3, "has no value above 3"), (255, "")])
def test_a_mask_of_ones_is_told(root, most, told):
    metadata(root, mask=lambda t: np.where(t.index, "NA", "mask.png"))
    Image.fromarray(np.pad(np.full((8, 8), most, np.uint8), 4)).save(root / "mask.png")
    data = opened(root)
    if not told: assert data.read_masks(data.table, 16).any((1, 2)).tolist() == [True] + [False] * 29
    else:
        with fails(told): data.read_masks(data.table, 16)


# ---- folders

def test_folders_of_splits(root, tmp_path):
    for split in ("train", "val", "test"): shutil.copytree(root, tmp_path / "dealt" / split)
    data = opened(tmp_path / "dealt")
    assert data.classes == ["melanoma", "naevus", "nerves"] and data.table.split.value_counts().tolist() == [30] * 3


def test_a_link_to_above_is_refused(root):
    (root / "naevus/again").symlink_to(root)
    with fails("leads back to"): opened(root)
    with fails("leads back to"): find_source(f"folder:{root}").files()


def test_what_a_link_hides_is_seen(root, tmp_path):
    shutil.move(root / "naevus", tmp_path / "naevus")
    (root / "naevus").symlink_to(tmp_path / "naevus")
    before = find_source(f"folder:{root}").files()
    Image.new("RGB", (8, 8)).save(tmp_path / "naevus/0.png")
    assert find_source(f"folder:{root}").files() != before


def test_a_link_to_nothing_is_named(root):
    (root / "naevus/x.png").symlink_to("nothing.png")
    with fails("naevus/x.png leads to no file"): opened(root)
