"Published archives, each played by a miniature in the official layout"
import hashlib
import shutil
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from zipfile import ZipFile

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from logex_nb.core import repo_root
from logex_nb.data.archives import Archive, Ham10000, HyperKvasir, Kriegsmann, PadUfes, Remote, Scin, download, unpack
from logex_nb.data.catalogue import SOURCES, find_source
from logex_nb.data.protocols import Protocol, at_fold, leaked, make_split
from logex_nb.run.reruns import code_of
from test_data_hostile import fails

FOLDS, NATURAL = Protocol(kind="folds"), Protocol(kind="natural")
RNG = np.random.default_rng(0)


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RNG.integers(0, 256, (9, 12, 3), np.uint8)).save(path)
    return path


def ham(top, per_class=20):
    "Two images of each lesion, in different parts"
    rows = [(f"HAM_{k}{i // 2:03}", f"ISIC_{k}{i:06}", dx, "histo", "50.0", "male", "back", "vidir_modern")
            for k, dx in enumerate(Ham10000.labels) for i in range(per_class)]
    table = pd.DataFrame(rows, columns="lesion_id image_id dx dx_type age sex localization dataset".split())
    for i, image in enumerate(table.image_id): picture(top / f"HAM10000_images_part_{1 + i % 2}/{image}.jpg")
    table.to_csv(top / "HAM10000_metadata.csv", index=False)
    return table


def pad(top):
    labels = ["ACK", "BCC", "MEL", "NEV", "SCC", "SEK", "BOD"]
    rows = [(f"PAT_{p}", f"{p}{k}", f"PAT_{p}_{p}{k}_{k}.png", labels[p % 7], "True") for p in range(70) for k in range(1 + p % 3)]
    table = pd.DataFrame(rows, columns="patient_id lesion_id img_id diagnostic biopsed".split())
    for i, image in enumerate(table.img_id): picture(top / f"images/imgs_part_{1 + i % 3}/imgs_part_{1 + i % 3}/{image}")
    table.to_csv(top / "metadata.csv", index=False)
    return table


def scin(top, weights):
    "A case for each text of weights: two images, and no third one"
    cases = pd.DataFrame(dict(case_id=[str(-100 - i) for i in range(len(weights))], source="SCIN"))
    for k in (1, 2, 3): cases[f"image_{k}_path"] = [f"dataset/images/-{k}{i:04}.png" if k < 3 else "" for i in range(len(weights))]
    for image in [*cases.image_1_path, *cases.image_2_path]: picture(top / image)
    cases.to_csv(top / "dataset/scin_cases.csv", index=False)
    cases[["case_id"]].assign(weighted_skin_condition_label=weights).to_csv(top / "dataset/scin_labels.csv", index=False)


def kvasir(top, per_class=10):
    places = {"lower-gi-tract/anatomical-landmarks/cecum": "normal-cecum", "lower-gi-tract/pathological-findings/polyps": "polyp",
              "upper-gi-tract/pathological-findings/barretts-short-segment": "short-segment-barretts",
              "upper-gi-tract/pathological-findings/esophagitis-b-d": "oesophagitis-b-d"}
    rows = [(f"{k}-{i}.jpg", label, i * 5 // per_class) for k, label in enumerate(places.values()) for i in range(per_class)]
    for k, place in enumerate(places):
        for i in range(per_class): picture(top / f"labeled-images/{place}/{k}-{i}.jpg")
    table = pd.DataFrame(rows, columns=["file-name", "class-name", "split-index"])
    table.to_csv(top / "5_fold_split.csv", sep=";", index=False)
    return table


# ---- HAM10000

def test_ham_counts_and_lesions(tmp_path):
    table = ham(tmp_path)
    data = find_source(f"ham10000:{tmp_path}").open()
    assert data.name == "ham10000" and "CC BY-NC 4.0" in data.licence
    assert data.table.label.value_counts().to_dict() == dict.fromkeys(Ham10000.labels, 20)
    stems = data.table.image.map(lambda path: Path(path).stem)
    assert dict(zip(stems, data.table.group)) == dict(zip(table.image_id, table.lesion_id))
    row = data.table[4:5]
    with Image.open(tmp_path / row.image.item()) as file: saved = file.convert("RGB").resize((12, 12), Image.Resampling.BICUBIC)
    assert (data.read(row, 12)[0] == np.asarray(saved)).all()
    for cfg in (FOLDS, NATURAL):
        split = make_split(data, cfg)
        assert leaked(at_fold(split, 0) if cfg is FOLDS else split) == 0


@pytest.mark.parametrize("name, sep", [("HAM10000_metadata", ","), ("HAM10000_metadata.tab", "\t"), ("below/HAM10000_metadata.csv", ",")])
def test_ham_metadata_as_the_repository_gives_it(tmp_path, name, sep):
    table = ham(tmp_path)
    (tmp_path / "HAM10000_metadata.csv").unlink()
    (tmp_path / name).parent.mkdir(exist_ok=True)
    table.to_csv(tmp_path / name, sep=sep, index=False)
    assert len(Ham10000(tmp_path).open().table) == len(table)


def test_published_list(tmp_path):
    table = ham(tmp_path)
    listed = pd.DataFrame(dict(image=table.image_id + ".jpg", split=np.where(table.index % 10 < 7, "train", "test")))
    listed.to_csv(tmp_path / "published.csv", index=False)
    data = Ham10000(tmp_path, split="published.csv").open()
    with fails("set `grouped` to false"): make_split(data, NATURAL)
    split = make_split(data, Protocol(kind="natural", grouped=False))
    test = set(split.image[split.split == "test"].map(lambda path: Path(path).stem))
    assert test == set(table.image_id[table.index % 10 >= 7])
    assert 0 < leaked(split) < 1 and {"train", "val", "test"} == set(split.split)
    listed[1:].to_csv(tmp_path / "published.csv", index=False)
    with fails("published.csv and the metadata of ham10000 differ in 1 images, first 'ISIC_0000000'"):
        Ham10000(tmp_path, split="published.csv").open()
    with fails("no none.csv below", FileNotFoundError): Ham10000(tmp_path, split="none.csv").open()


def test_files_tell_of_a_change(tmp_path):
    ham(tmp_path)
    source = Ham10000(tmp_path)
    before = source.files()
    assert len(before) == 141
    picture(tmp_path / "HAM10000_images_part_1/ISIC_0000000.jpg")
    assert source.files() != before


# ---- the others

def test_pad_patients_and_bowen(tmp_path):
    table = pad(tmp_path)
    data = find_source(f"pad_ufes_20:{tmp_path}").open()
    assert data.classes == list(PadUfes.labels)
    assert (data.table.label == "SCC").sum() == table.diagnostic.isin(["SCC", "BOD"]).sum()
    assert data.table.group.nunique() == 70
    assert leaked(at_fold(make_split(data, FOLDS), 0)) == 0
    assert leaked(at_fold(make_split(data, Protocol(kind="folds", grouped=False)), 0)) > 0


def test_scin_labels(tmp_path):
    scin(tmp_path, ["{'Eczema': 0.4, 'Psoriasis': 0.6}", "{'eczema': 0.5, 'Acne': 0.5}", "{'Insect Bite': 1.0, 'Acne': 0.9}", "{}", "",
                    "{'SCC/SCCIS': 1.0}"] * 5)
    data = find_source(f"scin:{tmp_path}").open()
    assert data.table.label.value_counts().to_dict() == {"Psoriasis": 5, "Eczema": 5, "SCC/SCCIS": 5}
    assert data.table.group.is_unique and all("-1" in Path(image).stem[:2] for image in data.table.image)
    both = find_source(f"scin:{tmp_path}", dict(images=3)).open()
    assert len(both.table) == 30 and set(both.table.groupby("group").size()) == {2}
    assert find_source(f"scin:{tmp_path}", dict(conditions=["Psoriasis", "ECZEMA"])).open().classes == ["Eczema", "Psoriasis"]
    with fails("has 0 classes"): find_source(f"scin:{tmp_path}", dict(min_cases=6)).open()


def test_scin_cases_that_share_a_photograph_are_one_group(tmp_path):
    scin(tmp_path, ["{'Eczema': 1.0}", "{'Acne': 1.0}"] * 6)
    image = lambda case, k: tmp_path / f"dataset/images/-{k}{case:04}.png"
    shutil.copy(image(0, 1), image(3, 2))
    shutil.copy(image(3, 1), image(4, 1)) # 0 and 4 have nothing in common but 3
    groups = Scin(tmp_path, images=2).open().table.groupby("group").image.apply(lambda x: {int(Path(i).stem[2:]) for i in x})
    assert sorted(map(sorted, groups)) == [[0, 3, 4], [1], [2], [5], [6], [7], [8], [9], [10], [11]]
    split = make_split(Scin(tmp_path, images=2).open(), Protocol(kind="folds", folds=3))
    assert split.groupby("sha256").fold.nunique().max() == 1


@pytest.mark.parametrize("weights", ["{'Eczema': 0.4", "Eczema", "['Eczema']", "{'Eczema': 'much', 'Acne': 1}", "__import__('os').getcwd()"])
def test_scin_weights_that_are_none(tmp_path, weights):
    scin(tmp_path, [weights] * 5)
    with fails("of case '-100' is"): Scin(tmp_path).open()


@pytest.mark.parametrize("settings, message", [(dict(conditions=["Eczma"]), "unknown condition 'Eczma'"), (dict(images=0), "images is 0")])
def test_scin_settings(tmp_path, settings, message):
    scin(tmp_path, ["{'Eczema': 1.0}"] * 5)
    with fails(message): find_source(f"scin:{tmp_path}", settings).open()


def test_kvasir_folds(tmp_path):
    table = kvasir(tmp_path)
    data = find_source(f"hyper_kvasir:{tmp_path}").open()
    split = make_split(data, FOLDS)
    assert dict(zip(split.image.map(lambda p: Path(p).name), split.fold)) == dict(zip(table["file-name"], table["split-index"]))
    assert data.classes == ["normal-cecum", "oesophagitis-b-d", "polyp", "short-segment-barretts"]
    with fails("hyper_kvasir comes with 5 folds, and `folds` is 3"): make_split(data, Protocol(kind="folds", folds=3))
    (tmp_path / "5_fold_split.csv").unlink()
    with fails("no 5_fold_split.csv below", FileNotFoundError): HyperKvasir(tmp_path).open()
    own = HyperKvasir(tmp_path, official_folds=False).open()
    assert own.table.label.value_counts().to_dict() == table["class-name"].value_counts().to_dict()
    assert set(make_split(own, Protocol(kind="folds", folds=3)).fold) == {0, 1, 2}


def test_labels_are_those_of_the_paper():
    assert [len(set(SOURCES[word].labels)) for word in ("ham10000", "pad_ufes_20", "scin", "hyper_kvasir")] == [7, 6, 26, 23]


# ---- damaged archives

MADE = dict(ham10000=ham, pad_ufes_20=pad, hyper_kvasir=kvasir, scin=lambda top: scin(top, ["{'Eczema': 1.0}", "{'Acne': 1.0}"] * 5))
TABLES = dict(ham10000=("HAM10000_metadata.csv", "dx"), pad_ufes_20=("metadata.csv", "diagnostic"),
              hyper_kvasir=("5_fold_split.csv", "class-name"))


@pytest.mark.parametrize("word", MADE)
def test_a_missing_image_is_named(tmp_path, word):
    MADE[word](tmp_path)
    data = find_source(f"{word}:{tmp_path}").open()
    gone = data.table.image[7]
    (tmp_path / gone).unlink()
    with fails(f"1 of {len(data.table)} images are missing below {tmp_path}, first '", FileNotFoundError):
        find_source(f"{word}:{tmp_path}").open()


@pytest.mark.parametrize("word", TABLES)
def test_an_unknown_label_is_refused_with_choices(tmp_path, word):
    MADE[word](tmp_path)
    file, column = TABLES[word]
    sep = ";" if word == "hyper_kvasir" else ","
    table = pd.read_csv(tmp_path / file, sep=sep)
    table.assign(**{column: table[column].where(table.index != 5, "freckle")}).to_csv(tmp_path / file, sep=sep, index=False)
    with fails("unknown label 'freckle' of image '"): find_source(f"{word}:{tmp_path}").open()
    with fails(f"choose from {list(SOURCES[word].labels)}"): find_source(f"{word}:{tmp_path}").open()


@pytest.mark.parametrize("word", MADE)
def test_nothing_there(tmp_path, word):
    source = find_source(f"{word}:{tmp_path}/none")
    assert source.files() == []
    with fails(f"below {tmp_path}/none: ", FileNotFoundError): source.open()


@pytest.mark.parametrize("word", TABLES)
@pytest.mark.parametrize("content", [b"", b"a,b\n1,2\n", b"\xff\xfe\x00\x01"])
def test_a_damaged_table(tmp_path, word, content):
    MADE[word](tmp_path)
    (tmp_path / TABLES[word][0]).write_bytes(content)
    with fails(TABLES[word][0]): find_source(f"{word}:{tmp_path}").open()


# ---- fetching

class Server:
    "Serves a folder; knows ranges, unless told otherwise; breaks off after `limit` bytes"
    def __init__(self, folder):
        self.ranges, self.limit, self.asked, server = True, None, [], self

        class Handler(SimpleHTTPRequestHandler):
            def log_message(self, *args): pass

            def do_GET(self):
                content = (folder / self.path.lstrip("/").partition("?")[0]).read_bytes()
                given = self.headers.get("Range")
                server.asked.append(given)
                start = int(given[6:-1]) if given and server.ranges else 0
                if start and start >= len(content): return self.send_error(416)
                self.send_response(206 if start else 200)
                self.send_header("Content-Length", str(len(content) - start))
                self.end_headers()
                self.wfile.write(content[start:][:server.limit])

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        Thread(target=self.http.serve_forever, daemon=True).start()


@pytest.fixture
def served(tmp_path):
    (tmp_path / "served").mkdir()
    server = Server(tmp_path / "served")
    yield server, tmp_path / "served"
    server.http.shutdown()
    server.http.server_close()


def remote(server, folder, name):
    return Remote(name, f"{server.url}/{name}", f"md5:{hashlib.md5((folder / name).read_bytes()).hexdigest()}")


@pytest.mark.parametrize("ranges", [True, False])
def test_an_interrupted_download_goes_on(served, tmp_path, ranges):
    server, folder = served
    server.ranges, content = ranges, RNG.bytes(1 << 20)
    (folder / "a.bin").write_bytes(content)
    server.limit = 400_000
    with fails("repeat to continue", RuntimeError): download(remote(server, folder, "a.bin"), tmp_path / "got")
    assert [p.name for p in (tmp_path / "got").iterdir()] == [".a.bin.part"]
    kept = (tmp_path / "got/.a.bin.part").stat().st_size
    assert 0 < kept <= 400_000
    server.limit = None
    assert download(remote(server, folder, "a.bin"), tmp_path / "got").read_bytes() == content
    assert server.asked[-1] == f"bytes={kept}-" and [p.name for p in (tmp_path / "got").iterdir()] == ["a.bin"]
    n = len(server.asked)
    download(remote(server, folder, "a.bin"), tmp_path / "got")
    assert len(server.asked) == n # it is there


def test_all_but_the_name_was_there(served, tmp_path):
    server, folder = served
    (folder / "a.bin").write_bytes(b"all of it")
    (tmp_path / "got").mkdir()
    (tmp_path / "got/.a.bin.part").write_bytes(b"all of it")
    assert download(remote(server, folder, "a.bin"), tmp_path / "got").read_bytes() == b"all of it"


def test_a_changed_checksum_is_refused(served, tmp_path):
    server, folder = served
    (folder / "a.bin").write_bytes(b"published")
    wanted = remote(server, folder, "a.bin")
    (folder / "a.bin").write_bytes(b"changed")
    with fails(f"does not have the checksum {wanted.checksum}: it was not kept"): download(wanted, tmp_path / "got")
    assert list((tmp_path / "got").iterdir()) == []
    (folder / "a.bin").write_bytes(b"published")
    assert download(wanted, tmp_path / "got").read_bytes() == b"published"


def test_no_server(tmp_path):
    with fails("cannot download a.bin from http://127.0.0.1:9/a.bin", RuntimeError):
        download(Remote("a.bin", "http://127.0.0.1:9/a.bin", "md5:" + 32 * "0"), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["../out.txt", "/tmp/logex_nb_out.txt", "a/../../out.txt"])
def test_a_zip_that_writes_elsewhere(tmp_path, name):
    with ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("good.txt", "")
        file.writestr(name, "")
    with fails("outside of its folder"): unpack(tmp_path / "a.zip", tmp_path / "a")
    assert [p.name for p in tmp_path.iterdir()] == ["a.zip"] and not Path("/tmp/logex_nb_out.txt").exists()


def test_a_damaged_zip(tmp_path):
    with ZipFile(tmp_path / "whole.zip", "w") as file: file.writestr("a.bin", RNG.bytes(100_000))
    content = (tmp_path / "whole.zip").read_bytes()
    (tmp_path / "short.zip").write_bytes(content[:50_000])
    damaged = bytearray(content)
    damaged[500] ^= 1
    (tmp_path / "damaged.zip").write_bytes(damaged)
    for name in ("short", "damaged"):
        with fails(f"cannot unpack {tmp_path / name}.zip"): unpack(tmp_path / f"{name}.zip", tmp_path / name)
        assert not (tmp_path / name).exists()


def test_fetch_and_open(served, tmp_path, capsys):
    server, folder = served
    table = ham(tmp_path / "ham")
    for part in (1, 2): shutil.make_archive(folder / f"HAM10000_images_part_{part}", "zip", tmp_path / f"ham/HAM10000_images_part_{part}")
    shutil.copy(tmp_path / "ham/HAM10000_metadata.csv", folder)

    class Played(Ham10000):
        remotes = tuple(remote(server, folder, r.name) for r in Ham10000.remotes)

    source = Played(tmp_path / "got")
    server.limit = 3000 # breaks off within the table
    with fails("repeat to continue", RuntimeError): source.fetch()
    with fails("`find_source('ham10000').fetch()` downloads it", FileNotFoundError): source.open()
    server.limit = None
    source.fetch()
    assert "CC BY-NC 4.0" in capsys.readouterr().out
    assert source.open().table.equals(Ham10000(tmp_path / "ham").open().table) and len(source.open().table) == len(table)
    assert sorted(p.name for p in (tmp_path / "got").iterdir()) == ["HAM10000_images_part_1", "HAM10000_images_part_2", "HAM10000_metadata.csv"]
    n = len(server.asked)
    source.fetch()
    assert len(server.asked) == n


@pytest.mark.parametrize("word", ["pad_ufes_20", "scin", "hyper_kvasir"])
def test_fetched_by_hand(tmp_path, word):
    with fails(f"{word} is fetched by hand into {tmp_path}: "): find_source(f"{word}:{tmp_path}").fetch()
    assert list(tmp_path.iterdir()) == []


def test_what_can_be_fetched_is_pinned():
    for archive in (kind for kind in SOURCES.values() if issubclass(kind, Archive)):
        assert archive.licence and archive.by_hand
        for file in archive.remotes: assert file.url.startswith("https://") and len(file.checksum) in ((36, 71) if archive is not Kriegsmann else (0,)) # its checksum is on its page


# ---- by name

def test_where_an_archive_is_looked_for(tmp_path, monkeypatch):
    assert find_source("ham10000").folder == repo_root() / "data/ham10000"
    monkeypatch.chdir(tmp_path)
    assert find_source("ham10000", dict(path=str(tmp_path / "a"))).folder == tmp_path / "a"
    (tmp_path / "b").mkdir()
    assert find_source("ham10000:b").folder == tmp_path / "b"


@pytest.mark.parametrize("text, message", [
    ("ham10000:", "choose phantom"), ("ham1000", "choose phantom"), ("folder:a/hyper_kvasir", "rename it"),
    ("npz:scin.npz", "rename it"), ("folder:phantom", "rename it")])
def test_names_that_do_not_fit(text, message):
    with fails(message): find_source(text)


def test_a_stage_follows_its_archive_only():
    code = code_of(repo_root() / "nbs/stages/data.ipynb", "data.archives.Ham10000")
    assert {"data.archives.Ham10000", "data.archives.Archive"} <= set(code)
    assert not {"data.archives.Scin", "data.archives.PadUfes", "data.sources.Phantom"} & set(code)


def test_a_lesion_has_one_class(tmp_path):
    table = ham(tmp_path)
    table.loc[table.lesion_id == "HAM_0000", "dx"] = ["akiec", "df"]
    table.to_csv(tmp_path / "HAM10000_metadata.csv", index=False)
    with fails("lesion 'HAM_0000' of ham10000 is akiec and df: a lesion has one class"): Ham10000(tmp_path).open()
