"""What the world does to files: processes killed at every write, full disks, damaged bytes, edited and malformed JSON.

Under pytest a sample is tried (about a minute); `SCSAM_FAULTS=full pytest tests/test_faults.py` or
`python tests/test_faults.py` tries everything (hours) and prints how much was tried, refused in words, accepted with
the same content, accepted with other content, ended in a traceback, and left behind half-written files. With a number
in place of `full`, so many of each class are tried, evenly spread.

The review that this house was tested by had 26 findings. What happens now, and the test that shows it (here, unless
another file is named; a notebook's assertions are tests, too):

 1 a full disk cuts a volume     one message, code 2, no file            test_no_room, test_a_full_file_system
 2 evaluate --save climbs        names are not paths; some are refused   test_hostile_names_stay_where_they_belong
 3 .[app] lacks a kernel         a server of our own, no kernel          test_exit_codes.py: test_the_app_ends_with_0,
                                                                         in bare environments by the workflow Versions
 4 a branch name runs in a page  refused as damaged; the rest is text    test_browser.py: test_names_are_text
 5 two cases with one file       file_names: no two the same             test_hostile_names_stay_where_they_belong
 6 an edited run is taken        the changed file is named, --force      test_an_edited_run_says_so,
                                                                         test_another_sam_than_in_training
 7 tracebacks on malformed JSON  file, place and what was expected       test_json_of_a_run, test_json_for_others
 8 a full disk, images           as 1                                    test_no_room
 9 the inspector is open to all  token, Host, Origin, 8 visitors         test_browser.py: test_the_app_is_private
10 a killed inspector serves on  one process: it ends with itself        test_browser.py: test_the_app_is_private
11 a damaged cache is trained on a hash behind every array, made anew    01_data.ipynb, 30_feed.ipynb
12 mixed downloads               If-Range, Content-Range, length, size   09_weights.ipynb
13 100 megapixels take 4.7 GB    under 1.5 GB                            test_a_large_image_needs_little_memory
14 MHD names /dev/zero           regular files beside the header only    test_a_header_names_no_other_file
15 a damaged points.npz          said, the points are left out           test_damaged_snapshots
16 leftovers of killed processes swept by the next command there, or by  all tests of kills
                                 whoever writes the same file again
17 a killed predict refuses      it goes on where it was                 test_predict_killed_at_every_file_event
18 tables: |, HTML, formulas     escaped                                 05_records.ipynb, test_tables_are_text
19 long fields, NUL, odd classes said                                    test_tables_of_a_folder
20 a flipped corrected mask      compared with the hash in its name      test_damaged_correction
21 a crash's code is 1           70, with a line on how to report        test_exit_codes.py
22 the error page loads a font   no page asks for anything elsewhere     test_browser.py (`elsewhere`)
23 a DICOM folder leads out      no such warning                         test_a_dicom_folder_leads_nowhere
24 moved data                    the message names --data                test_moved_data_names_the_option
25 no upper bounds               settings.ini, constraints.txt           test_project.py: test_versions_agree
26 a flipped --weights FILE      a .pth's own checksums are compared; a .safetensors file has none, and of a file that
                                 only its owner knows nothing else is known. Its hash is kept with the run, and another
                                 file is refused from then on: test_damaged_sam, test_another_sam_than_in_training
"""
import contextlib
import csv
import gzip
import io
import json
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from scsam.check import check
from scsam.checkpoint import load_tensors, save_tensors
from scsam.cli import main
from scsam.config import Recipe, ScsamError
from scsam.data import file_sha256, manifest_sha256
from scsam.datasets import load_dataset
from scsam.decisions import Decisions
from scsam.experiment import run_data, run_queue
from scsam.folds import OUT_OF_FOLD, load_folds
from scsam.files import read_json
from scsam.sam import load_sam
from scsam.snapshots import History
from scsam.learner import load_run
from scsam.predict import predict_files
from scsam.records import add_scores, find_records, read_record, table, write_record

FAULTS = os.environ.get("SCSAM_FAULTS", "")
FULL, MOST = FAULTS != "", int(FAULTS) if FAULTS.isdigit() else sys.maxsize
RECIPE = Recipe.preset("smoke", labeled="4", val="0.2", steps=4, val_every=2, image_size=32)
SAID, SAME, OTHER = "refused in words", "accepted, same", "accepted, other content"
CRASH, LEFT = "traceback", "leftover"
fork = multiprocessing.get_context("fork")  # a child starts at once: torch is imported already
REPORT = {}  # class of fault -> Counter


def note(name, outcome):
    "Count an outcome; a full run says how far it is, so that a killed one has lost nothing."
    c = REPORT.setdefault(name, Counter())
    c[outcome] += 1
    if FULL and c.total() % 100 == 0:
        print(f"\n{row(name)} …", flush=True)
    return outcome


def row(name):
    c = REPORT[name]
    return f"{name:28}{c.total() - c[LEFT]:7}" + "".join(f"{c[k]:26}" for k in (SAID, SAME, OTHER, CRASH, LEFT))


def sample(items, n, seed=0):
    "All of them in a full run, or as many as were asked for, else `n`, always the same."
    items = list(items)
    if FULL:
        return [items[int(i)] for i in np.linspace(0, len(items) - 1, min(MOST, len(items)))]
    return items if len(items) <= n else random.Random(seed).sample(items, n)


def clean(name, *allowed):
    "Nothing of a class of faults may have ended otherwise; its counts are printed."
    print(f"\n{row(name)}", flush=True)
    wrong = {k: v for k, v in REPORT[name].items() if k not in (SAID, SAME, *allowed)}
    assert not wrong, f"{name}: {dict(REPORT[name])}"


# ---------------------------------------------------------------- a small world


def save_images(folder, cases):
    for c in cases:
        part = folder / ("test" if c.role.startswith("test") else "train")
        for kind, pixels in (("images", c.read_image()[::4, ::4]), ("masks", c.read_mask()[::4, ::4] * 255)):
            path = part / kind / f"{c.id.replace('/', '-')}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)


class World:
    "A data set on disk, a finished run with snapshots, decisions, predictions and a record, and a volume."

    def __init__(self, home):
        self.home, self.data, self.run = home, home / "data", home / "runs" / "b"
        save_images(self.data, load_dataset("phantom", n=16, test=4, source="colour"))
        options = [
            f"--{k.replace('_', '-')}={v}"
            for k, v in dict(preset="smoke", labeled=4, val=0.2, steps=4, val_every=2).items()]
        self.train = [
            "train", "--data",
            str(self.data), *options, "--image-size=32", "--snapshots=2", "--quiet", "--out"]
        assert call(*self.train, self.run)[0] == 0
        assert call("evaluate", self.run, "--save", "--quiet")[0] == 0
        d, unlabeled = Decisions(self.run / "decisions"), [c for c in load_dataset(self.data).where(role="train")]
        ids = read_json(self.run / "snapshots" / "cases.json")["ids"]
        cases = {c.id: c for c in unlabeled}
        d.set(cases[ids[0]], "accepted", note="good")
        d.set(cases[ids[1]], "rejected")
        d.set(cases[ids[2]], "corrected", np.eye(*cases[ids[2]].read_image().shape[:2], dtype=np.uint8))
        self.corrected = ids[2]
        self.volume = None
        with contextlib.suppress(ImportError):
            import SimpleITK as sitk

            self.volume = home / "volumes" / "v.nii.gz"
            self.volume.parent.mkdir()
            voxels = np.random.default_rng(0).integers(0, 255, (3, 40, 44)).astype(np.uint8)
            sitk.WriteImage(sitk.GetImageFromArray(voxels), str(self.volume))

    def copy(self, to):
        shutil.copytree(self.run, to, ignore=shutil.ignore_patterns("predictions"))
        return to


def call(*argv):
    "`scsam …` in this process: (exit code, what it said)."
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        code = main(list(map(str, argv)))
    return code, out.getvalue()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    old, os.environ["SCSAM_CACHE"] = os.environ.get("SCSAM_CACHE"), str(tmp_path_factory.mktemp("cache"))
    torch.set_num_threads(1)
    yield World(tmp_path_factory.mktemp("world"))
    os.environ.pop("SCSAM_CACHE") if old is None else os.environ.update(SCSAM_CACHE=old)


# ---------------------------------------------------------------- JSON of every shape

DEEP = json.loads("[" * 55 + "]" * 55)
VALUES = [
    None, True, -1, 3, 0.5, 10**30, 1e300, "", "x", "../../x", "x"*300, [], [[]], ["x"], {}, {"": None}, {"x": {}},
    DEEP]
TEXTS = [
    b"", b"null", b"[]", b"{}", b"1", b'"x"', b"["*100_000 + b"]"*100_000, b'{"a":'*50_000, b"\xff\xfe\0{", b"NaN",
    b'{"steps": 1e999}', b"9"*5000, b"\0"*64]


def places(v, at=()):
    "Every place in a JSON value; of a list the first two elements and the last."
    yield at
    if isinstance(v, dict):
        for k, x in v.items():
            yield from places(x, (*at, k))
    elif isinstance(v, list):
        for i in sorted({0, 1, len(v) - 1} & set(range(len(v)))):
            yield from places(v[i], (*at, i))


def put(v, at, new):
    "A copy of `v` with `new` at a place; GONE takes it away."
    if not at:
        return new
    out = dict(v) if isinstance(v, dict) else list(v)
    if new is GONE and len(at) == 1:
        del out[at[0]]
    else:
        out[at[0]] = put(v[at[0]], at[1:], new)
    return out


GONE = object()


def mutants(path):
    "Malformed versions of a JSON file, as bytes."
    raw = path.read_bytes()
    value = json.loads(raw)
    for at in places(value):
        for new in [*VALUES, *([GONE] if at else [])]:
            yield json.dumps(put(value, at, new)).encode()
    for n in range(0, len(raw), max(1, len(raw) // 12)):
        yield raw[:n]
        yield raw[:n] + bytes([raw[n] ^ 4]) + raw[n + 1:]
    yield from TEXTS


def outcome(read, expected):
    "What reading comes to. `read` gives what the caller would work with."
    try:
        return SAME if read() == expected else OTHER
    except ScsamError:
        return SAID
    except Exception as e:
        print(f"{type(e).__name__}: {e}")
        return CRASH


def opened(world, d):
    "What `evaluate` and `predict` read of a run."
    run = load_run(d)
    data = run_data(run, world.data)
    roles = sorted((c.id, c.role) for c in data)
    done = {k: v for k, v in run.training.items() if k not in ("files", "sha256")}
    return run.recipe, roles, done, [c["id"] for c in run.manifest["cases"] if c["labeled"]]


def shown(world, d):
    "What the inspector and the app read of a run; what they say instead counts as said."
    from scsam.inspector import Review

    review = Review(d, data=world.data)
    view, problems = review.view(review.ids[0])
    if review.said or problems:
        raise ScsamError(" ".join([*review.said, *problems]))
    return review.ids, list(review.saved.steps), review.decisions.cases


def tabled(world, d):
    text = table(find_records(d), branches="all", base=d).markdown()
    return "" if "changed after" in text else text  # a footnote: said, and shown


READ = {
    "recipe.json": opened, "manifest.json": opened, "training.json": opened, "data.json": opened, "record.json": tabled,
    "history.json": lambda w, d: vars(History.load(d/"history.json")), "snapshots/cases.json": shown,
    "decisions/decisions.json": shown}


@pytest.mark.parametrize("name", READ)
def test_json_of_a_run(world, tmp_path, name):
    d = world.copy(tmp_path / "run")
    path, read = d / name, READ[name]
    expected = read(world, d)
    if name == "record.json":
        for other in d.rglob("*.json"):
            if other != path:
                other.unlink()
    for text in sample(mutants(path), 40 if read is not shown else 12):
        path.write_bytes(text)
        got = outcome(lambda: read(world, d), expected)
        if got == OTHER and name in ("history.json", "decisions/decisions.json", "data.json", "record.json"):
            got = SAME  # what a person may write there, or what is shown with a note that it was changed
        note(name, got)
    clean(name)


def test_json_of_folds(world, tmp_path):
    d, images = tmp_path / "folds", world.data / "test" / "images"
    for k in (0, "x"):  # and a folder that is no fold
        shutil.copytree(world.run, d / f"fold-{k}")
    shutil.copy(world.run / "manifest.json", d)
    training = {k: v for k, v in read_json(world.run / "training.json").items() if k not in ("files", "sha256")}
    path = d / "folds.json"
    path.write_text(json.dumps({"format": 1, "folds": 1, "training": training}))
    read = lambda: (lambda run: (run.training, run.recipe))(load_folds(d))
    expected = read()
    for text in sample(mutants(path), 30):
        path.write_bytes(text)
        got = outcome(read, expected)
        note("folds.json", SAME if got == OTHER else got)  # it has no hash: a summary, of which the folds know the rest
        if got != SAID:
            code, said = call("predict", d, images, "--out", tmp_path / "out", "--overwrite", "--quiet")
            assert code in (0, 2) and "Traceback" not in said, said
    clean("folds.json")


def carded(world, d):
    "What report, export and table make of a record, of curves and of a calibration."
    from scsam.export import _record, model_card
    from scsam.report import part_curves, part_record, part_scores
    from scsam.trust import Expected

    run, record = load_run(d), read_record(d / "record.json")
    Expected.load(d / "expected.json")(0.3)
    model_card(run, _record(run), {}, "a", "a")
    return part_scores(record) + part_curves(run) + part_record(run, None)


EXPECTED = {
    "format": 5, "branch": "sam", "level": 0.9, "knots": [0.1, 0.5], "values": [0.2, 0.6], "margins": [0.1, 0.2],
    "bounds": [0.3], "images": 20, "step": 4}
TWICE = [b'{"format": 1, "format": 1}', b'{"a": "\\ud800"}', b'"\\udc00"']


@pytest.mark.parametrize("name", ["record.json", "history.json", "expected.json"])
def test_json_for_others(world, tmp_path, name):
    d = world.copy(tmp_path / "run")
    (d / "expected.json").write_text(json.dumps(EXPECTED))
    expected, path = carded(world, d), d / name
    for text in [*sample(mutants(path), 20), *TWICE]:
        path.write_bytes(text)
        got = outcome(lambda: carded(world, d), expected)
        note(f"{name}, for others", SAME if got == OTHER else got)  # a page of what the file says
    clean(f"{name}, for others")


def test_code_that_came_with_a_run_is_not_run(world, tmp_path):
    d, ran = world.copy(tmp_path / "run"), tmp_path / "ran"
    (d / "plugin.py").write_text(f"open({str(ran)!r}, 'w').close()\n")
    for argv in (["evaluate", d], ["predict", d, world.data / "test" / "images", "--out", tmp_path / "out"],
                 ["report", d], ["export", d, "--out", tmp_path / "for-others"]):
        code, text = call(*argv)
        assert code == 2 and "plugin.py is Python code that came with the run" in text and not ran.exists(), text


def test_tables_are_text(world, tmp_path):
    record = json.loads((world.run / "record.json").read_text())
    bad = ["a|b", "<img src=x onerror=alert(1)>", "=1+1", "x\ny", "$\\&%"]
    record.update(dataset=bad[0], method=bad[1], run="\n".join(bad))
    for part in ("scores", "summary"):
        record[part] = dict.fromkeys(bad, record[part]["test"])
    (tmp_path / "r.json").write_text(json.dumps(record))
    shown = {f: call("table", tmp_path, "--format", f)[1] for f in ("markdown", "latex", "csv", "text")}
    rows = [line for line in shown["markdown"].splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1 and "<img" not in shown["markdown"], rows
    cells = [c for row in csv.reader(io.StringIO(shown["csv"])) for c in row]
    assert "'=1+1" in cells and not any(c.startswith("=") for c in cells)
    assert "x y" in shown["latex"] and r"\$" in shown["latex"] and r"\&\%" in shown["latex"]


TABLES = {
    "classes.json": b'{"background": 0, "polyp": 255}', "dataset.json": b'{"labels": {"background": 0, "polyp": 255}}',
    "classes.txt": b"background\npolyp\n", "all.csv": b"image,mask,role,id\ntrain/images/%s,train/masks/%s,train,a\n"}


CELLS = [
    b"", b" ", b".", b"..", b"../../x.png", b"/dev/zero", b"x" * 300, b"x" * 140_000, b'"', b'""', b"a,b", b"\0",
    b"\xff", b"\r", b"=1+1", b"nan", b"-1", b"1e999", b"9" * 5000, b"test", b"test:", b"val", b"image"]


def cells(table):
    "A CSV with each of its cells replaced, each of its columns gone, and each there twice."
    rows = [line.split(b",") for line in table.strip().split(b"\n")]
    for y, row in enumerate(rows):
        for x in range(len(row)):
            for new in CELLS:
                yield b"\n".join(b",".join(new if (i, j) == (y, x) else c for j, c in enumerate(r))
                                 for i, r in enumerate(rows))
    for x in range(len(rows[0])):
        for n in (0, 2):
            yield b"\n".join(b",".join(c for j, c in enumerate(r) for _ in range(n if j == x else 1)) for r in rows)


@pytest.mark.parametrize("name", TABLES)
def test_tables_of_a_folder(world, tmp_path, name):
    shutil.copytree(world.data, tmp_path / "data")
    first = next((world.data / "train" / "images").iterdir()).name.encode()
    raw, path = TABLES[name].replace(b"%s", first), tmp_path / "data" / name
    path.write_bytes(raw)
    texts = list(mutants(path)) if name.endswith(".json") else [*TEXTS, *(cells(raw) if name.endswith(".csv") else [])]
    texts += [] if name.endswith(".json") else [*damaged(raw, 8, 24)]
    texts += [
        b'{"threshold": "x"}', b'{"threshold": null}', b'{"labels": {"\xc2\xb2": 0, "\xc2\xb3": 1}}', b"a"*200_000,
        raw + b"\0.png,,,\n", raw + b'"' + b"x"*140_000 + b"\n",
        raw.replace(b"train,a", b"test:../../x,../../y"), raw + raw]

    def read():
        data = load_dataset(tmp_path / "data")
        data.manifest()
        if name == "all.csv":
            check(tmp_path / "data")
        return [c.read_mask().max() for c in data if c.has_mask][:1]

    if name == "classes.txt":  # whose masks hold the numbers of its lines
        for p in tmp_path.rglob("masks/*.png"):
            Image.fromarray((np.asarray(Image.open(p)) > 0).astype(np.uint8)).save(p)
    assert len(read()) == 1
    for text in sample(texts, 40):
        path.write_bytes(text)
        got = outcome(read, None)
        note(name, SAME if got == OTHER else got)  # another table is another data set
    clean(name)


# ---------------------------------------------------------------- damaged bytes


def damaged(raw, cuts=4, flips=12, seed=0):
    rng = random.Random(seed)
    for n in sorted({0, 1, *(rng.randrange(len(raw)) for _ in range(cuts if not FULL else 4 * cuts))}):
        yield raw[:n]
    for _ in range(flips if not FULL else 5 * flips):
        i = rng.randrange(len(raw))
        yield raw[:i] + bytes([raw[i] ^ (1 << rng.randrange(8))]) + raw[i + 1:]
    yield bytes(len(raw))


def test_damaged_images(world, tmp_path):
    "Any byte of a run's data that differs is named, whatever the format notices; and no format ends in a traceback."
    pixels = np.asarray(Image.open(next((world.data / "train" / "images").iterdir())))
    for kind in ("png", "jpg", "tif", "bmp", "gif", "webp"):
        path = tmp_path / kind / f"a.{kind}"
        path.parent.mkdir()
        Image.fromarray(pixels).save(path)
        raw = path.read_bytes()
        before = load_dataset(path.parent).manifest()
        for text in damaged(raw, 2, 6):
            path.write_bytes(text)

            def read():
                data = load_dataset(path.parent)
                if differs := data.compare(before):
                    data[0].read_image()
                    raise ScsamError(differs[0])
                return text == raw

            note(f"images: {kind}", outcome(read, True))
        clean(f"images: {kind}")


def test_damaged_volumes(world, tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    from scsam.volumes import read_volume, write_volume

    whole = read_volume(world.volume)
    for end in (".nii.gz", ".nii", ".mhd", ".mha", ".nrrd"):
        path = tmp_path / f"v{end}"
        write_volume(path, whole.array, whole)
        raw = path.read_bytes()
        for text in damaged(raw, 3, 8):
            path.write_bytes(text)
            got = outcome(lambda: np.array_equal(read_volume(path).array, whole.array), True)
            note(f"volumes: {end}", got)
        # a format without a checksum cannot tell; the manifest's hash does, see test_damaged_images
        clean(f"volumes: {end}", *([] if end == ".nii.gz" else [OTHER]))
    assert sitk


OUTSIDE = ["/dev/zero", "/etc/hostname", "../out.raw", "LIST", "a%02d.raw 1 2 1", "pipe", ".", "link", "x" * 300]


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_header_names_no_other_file(world, tmp_path, name):
    pytest.importorskip("SimpleITK")
    (tmp_path / "out.raw").write_bytes(bytes(32))
    folder = tmp_path / "v"
    folder.mkdir()
    os.mkfifo(folder / "pipe")
    (folder / "link").symlink_to(tmp_path / "out.raw")
    mhd = "ObjectType = Image\nNDims = 3\nDimSize = 4 4 2\nElementType = MET_UCHAR\nElementDataFile = {}\n"
    nrrd = "NRRD0004\ntype: uint8\ndimension: 3\nsizes: 4 4 2\nencoding: raw\ndata file: {}\n\n"
    for file, text in (("a.mhd", mhd), ("a.nrrd", nrrd)):
        (folder / file).write_text(text.format(name))
        code, said = call("predict", world.run, folder / file, "--out", tmp_path / "out", "--quiet")
        assert code == 2 and file in said and "Traceback" not in said, (code, said)
        (folder / file).unlink()


def test_a_dicom_folder_leads_nowhere(tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    folder = tmp_path / "dcm"
    folder.mkdir()
    for z in range(3):
        im = sitk.GetImageFromArray(np.full((40, 44), 10 * z, np.int16) + np.arange(44, dtype=np.int16))
        for tag, value in (("0020|000e", "1.2.3"), ("0020|000d", "1.2"), ("0020|0013", str(z)), ("0008|0060", "MR"),
                           ("0020|0032", f"0\\0\\{3 * z}"), ("0020|0037", "1\\0\\0\\0\\1\\0")):
            im.SetMetaData(tag, value)
        writer = sitk.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        writer.SetFileName(str(folder / f"{z}.dcm"))
        writer.Execute(im)
    code, text = call("data", "check", folder, "--quiet")
    assert code in (0, 1) and "3 cases" in text and "leads to" not in text and "lead out" not in text, text
    away = tmp_path / "away"  # and one that does
    away.mkdir()
    (folder / "2.dcm").rename(away / "2.dcm")
    (folder / "2.dcm").symlink_to(away / "2.dcm")
    code, text = call("data", "check", folder, "--quiet")
    assert code == 1 and "leads to" in text, text


def test_damaged_snapshots(world, tmp_path):
    from scsam.snapshots import PseudoLabels

    d = world.copy(tmp_path / "run")
    step = sorted((d / "snapshots").glob("step-*"))[-1]

    def read(at=int(step.name[5:])):
        saved = PseudoLabels(d)
        if saved.problems:
            raise ScsamError(saved.problems[0])
        return [saved.points(at, i)[0].tolist() for i in range(3)]

    expected = read()
    for name in ("points.npz", "unet.npy"):
        raw = (step / name).read_bytes()
        head = raw if name.endswith("npz") else raw[:128]  # pixels have no checksum: they are only looked at
        for text in damaged(head, 4, 16):
            (step / name).write_bytes(text + raw[len(head):] * (len(text) == len(head)))
            note(f"snapshots: {name}", outcome(read, expected))
        for a in (np.zeros(3), np.full((2, 2), None)):
            with open(step / name, "wb") as f:
                np.save(f, a, allow_pickle=True)
            note(f"snapshots: {name}", outcome(read, None))
        (step / name).write_bytes(raw)
        clean(f"snapshots: {name}")


WRONG = [
    {"kind": "note", "text": {}}, {"kind": "note", "text": None}, {"kind": "decide", "to": "accepted", "note": []},
    {"kind": "decide", "to": 5}, {"kind": "use", "note": {}}, {"kind": "nothing", "note": 1},
    {"kind": "go", "step": "x"}, {"kind": "list", "sort": {}}, {"kind": "list", "search": 5},
    {"kind": "hello", "layers": [1]}, {"kind": "thumbs", "ids": {}}, {"kind": "ready", "ids": 5},
    {"kind": "layers", "names": None},
    {"kind": "prompt", "box": [1]}, {"kind": "prompt", "box": ["a"] * 4}, {"kind": "prompt", "xy": [1, 2, 3]},
    {"kind": "stroke", "points": "x", "radius": 1}, {"kind": "stroke", "points": [[0]], "radius": 1},
    {"kind": "__class__"}, {"kind": 5}, {"id": "nobody", "kind": "go"}]


@pytest.mark.parametrize("message", WRONG, ids=str)
def test_a_message_that_no_page_sends(world, tmp_path, message):
    "It is refused in words, and the decisions are as they were."
    from scsam.inspector import Page
    from scsam.review import Review

    folder = shutil.copytree(world.run / "decisions", tmp_path / "decisions")
    before = (folder / "decisions.json").read_bytes()
    page = Page(Review(world.run, world.data, folder))
    reply, _ = page.handle({"id": page.review.ids[0], **message})
    assert reply["message"][1] == "error" and page.last_error is None, (reply, page.last_error)
    assert (folder / "decisions.json").read_bytes() == before


def test_damaged_weights(world, tmp_path):
    d = world.copy(tmp_path / "run")
    path, expected = d / "model.safetensors", opened(world, d)
    raw = path.read_bytes()
    for text in damaged(raw, 2, 8):
        path.write_bytes(text)
        note("model.safetensors", outcome(lambda: opened(world, d), expected))
    clean("model.safetensors")


def test_damaged_checkpoint(world, tmp_path):
    "The newest checkpoint of a stopped training: the damage is said, the one before serves, and the end is the same."
    d, whole = tmp_path / "run", tmp_path / "whole"
    argv = [*world.train, whole, "--steps=5", "--val-every=1", "--snapshots=0"]
    total, _ = killed_at(None, whole, lambda: main(list(map(str, argv))))
    expected, argv[argv.index(whole)] = trained(whole), d
    killed_at(total - 12, d, lambda: main(list(map(str, argv))))  # while it ends: the last two checkpoints are there
    begun = shutil.move(d, tmp_path / "begun")
    assert len(list(begun.glob("checkpoints/*.safetensors"))) == 2
    newest = sorted(begun.glob("checkpoints/*.safetensors"))[-1].relative_to(begun)
    for text in sample(damaged((begun / newest).read_bytes(), 2, 8), 2):
        shutil.copytree(begun, d)
        (d / newest).write_bytes(text)
        code, said = call(*argv)
        told = "damaged" in said and "trying the one before it" in said
        note("newest checkpoint", CRASH if code or not told else SAID if trained(d) == expected else OTHER)
        shutil.rmtree(d)
    clean("newest checkpoint")


def test_damaged_sam(tmp_path):
    "`--weights FILE`: a .pth has checksums; a .safetensors has none, so that other weights are loaded, see 26 above."
    from safetensors.torch import save_file

    state = {k: v.contiguous() for k, v in load_sam("tiny", "random", 32).state_dict().items()}
    for end, save, may in ((".pth", torch.save, []), (".safetensors", save_file, [OTHER])):
        path = tmp_path / f"sam{end}"
        save(state, path)

        def read():
            found = load_sam("tiny", path, 32).state_dict()
            return all(torch.equal(v, state[k]) for k, v in found.items())

        assert read()
        for text in sample(damaged(path.read_bytes(), 3, 10), 9):
            path.write_bytes(text)
            note(f"SAM checkpoint: {end}", outcome(read, True))
        clean(f"SAM checkpoint: {end}", *may)


def test_another_sam_than_in_training(world, tmp_path):
    "The run notes the hash of the file that SAM came from: another file is an error, in resuming and in every use."
    from safetensors.torch import save_file

    path, d = tmp_path / "sam.safetensors", tmp_path / "run"
    state = {k: v.contiguous() for k, v in load_sam("tiny", "random", 32).state_dict().items()}
    save_file(state, path)
    whole = path.read_bytes()
    other = whole[:-1] + bytes([whole[-1] ^ 1])
    argv = [*world.train, d, "--weights", path]
    assert call(*argv, "--max-minutes", 0)[0] == 3
    for text, code in ((other, 2), (whole, 0)):
        path.write_bytes(text)
        got, said = call(*argv)
        assert got == code and (not code or "SAM's weights are another file" in said), said
    path.write_bytes(other)
    code, said = call("evaluate", d, "--quiet")
    assert code == 2 and "SAM's weights are another file" in said and "--force" in said, said
    assert call("evaluate", d, "--quiet", "--force")[0] == 0


def test_damaged_correction(world, tmp_path):
    d = world.copy(tmp_path / "run")
    path = next((d / "decisions" / "masks").iterdir())
    raw, expected = path.read_bytes(), Decisions(d / "decisions").mask(world.corrected).tolist()
    for text in damaged(raw, 4, 24):
        path.write_bytes(text)
        note("corrected mask", outcome(lambda: Decisions(d / "decisions").mask(world.corrected).tolist(), expected))
    clean("corrected mask")


# ---------------------------------------------------------------- kills at every file event


def killed_at(n, root, work, signum=signal.SIGKILL):
    """Run `work` in a child that gets a signal before its n-th change to a file below `root`; None lets it end.
    Returns (their number, exit code)."""
    here, there = fork.Pipe(duplex=False)

    def child():
        count = 0

        def hook(event, args):
            nonlocal count
            if event == "open":
                path, write = args[0], isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            elif event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.link", "os.symlink"):
                path, write = args[0], True
            else:
                return
            if write and isinstance(path, (str, bytes, os.PathLike)) and os.fsdecode(path).startswith(str(root)):
                count += 1
                if count == n:
                    os.kill(os.getpid(), signum)

        sys.stdout = sys.stderr = open(os.devnull, "w")
        sys.addaudithook(hook)
        code = work()
        there.send(count)
        os._exit(code or 0)

    p = fork.Process(target=child)
    p.start()
    there.close()
    p.join(240)
    alive = p.is_alive()
    if alive:
        p.kill()
    count = here.recv() if p.exitcode == 0 else 0
    stopped = -signal.SIGKILL if signum == signal.SIGKILL else 3
    assert not alive and p.exitcode in ((0,) if n is None else (0, stopped)), (n, p.exitcode)
    return count, p.exitcode


def leftovers(*folders):
    return [
        p for f in folders for p in Path(f).rglob(".*")
        if p.name.endswith(".tmp") or p.name.startswith((".writing", ".lock"))]


def kills(name, root, work, state, quick, prepare=lambda d: None, signals=(signal.SIGKILL, )):
    """`work` killed before each change to a file and repeated must end as if it had never been killed; where it was
    asked to stop instead (in its first half: who is nearly done may end), nothing half-written stays even then."""
    home = root / "whole"
    prepare(home)
    total, _ = killed_at(None, home, lambda: work(home))
    expected, codes = state(home), Counter()
    assert total > 3 and not leftovers(home), (total, leftovers(home))
    points = sample(range(1, total + 1), quick) if signals[0] == signal.SIGKILL else [
        1, *sample(range(2, total // 2 + 1), quick)]
    for i, n in enumerate(points):
        d, signum = root / f"k{n}", signals[i % len(signals)]
        prepare(d)
        codes[killed_at(n, d, lambda: work(d), signum)[1]] += 1
        for _ in leftovers(d) if signum != signal.SIGKILL else ():
            note(name, LEFT)
        killed_at(None, d, lambda: work(d))
        got = note(name, SAME if state(d) == expected else OTHER)
        for _ in leftovers(d):
            note(name, LEFT)
        if got == OTHER or leftovers(d):
            print(f"{name}: before change {n} of {total}: {got}, left {leftovers(d)}")
        shutil.rmtree(d)
    assert codes.total() > codes[0], codes
    clean(name)


def hashes(folder, *endings):
    return {
        p.relative_to(folder).as_posix(): file_sha256(p) for p in sorted(Path(folder).rglob("*")) if p.suffix in endings
    }


def trained(d):
    "All that a training leaves and that the clock does not change."
    done = read_json(d / "training.json")
    times = ("seconds", "images_per_second", "peak_memory_mb", "sha256")
    points = {p.parent.name: {k: v.tolist() for k, v in np.load(p).items()} for p in d.rglob("*.npz")}
    return hashes(d, ".safetensors",
                  ".npy"), points, read_json(d/"history.json"), {k: v for k, v in done.items() if k not in times}


def test_train_killed_at_every_file_event(world, tmp_path):
    kills("kill: train", tmp_path, lambda d: main([*world.train, str(d)]), trained, 5)


def test_evaluate_killed_at_every_file_event(world, tmp_path):
    work = lambda d: main(["evaluate", str(d), "--save", "--quiet"])
    unscored = shutil.ignore_patterns("predictions", "record.json")
    state = lambda d: (hashes(d / "predictions", ".png"), read_json(d / "record.json")["scores"])
    kills("kill: evaluate", tmp_path, work, state, 5, lambda d: shutil.copytree(world.run, d, ignore=unscored))


def test_predict_killed_at_every_file_event(world, tmp_path):
    work = lambda d: main(["predict", str(world.run), str(world.data / "test" / "images"), "--out", str(d), "--quiet"])
    kills("kill: predict", tmp_path / "images", work, lambda d: hashes(d, ".png"), 6)
    if world.volume:
        work = lambda d: main(["predict", str(world.run), str(world.volume), "--out", str(d), "--quiet"])
        kills("kill: predict a volume", tmp_path / "volume", work, lambda d: hashes(d, ".gz"), 4)


def test_experiment_killed_at_every_file_event(world, tmp_path):
    data, recipe = load_dataset(world.data), RECIPE.replace(method="unet")

    def work(d):
        run_queue("e", data, {"a": recipe}, d/"runs", d/"results", where=(world.data, ), progress=False,
                  say=lambda *_: None)

    def state(d):
        return trained(d / "runs" / "e" / "a"), read_json(d / "results" / "e" / "a.json")["scores"]

    kills("kill: experiment", tmp_path, work, state, 4)


def test_decisions_killed_at_every_file_event(world, tmp_path):
    mask = np.ones((40, 48), np.uint8)

    def work(d):
        Decisions(d).set("a", "rejected")
        Decisions(d).set("b", "corrected", mask)

    def state(d):
        found = Decisions(d)
        return {k: {**v, "when": ""} for k, v in found.cases.items()}, found.mask("b").tolist()

    kills("kill: decisions", tmp_path, work, state, 8)


def test_other_commands_killed_at_every_file_event(world, tmp_path):
    "They write into folders of the user's, where no command sweeps: whoever writes the same file again does."
    commands = {
        "evaluate --record": lambda d: ["evaluate", d / "run", "--record", d / "records" / "r.json", "--quiet"],
        "report": lambda d: ["report", d / "run", "--out", d / "page.html", "--quick", "--quiet"],
    }
    state = lambda d: sorted(p.relative_to(d).as_posix() for p in d.rglob("*"))
    prepare = lambda d: shutil.copytree(world.run, d / "run", ignore=shutil.ignore_patterns("predictions"))
    for name, argv in commands.items():
        work = lambda d, argv=argv: main([str(a) for a in argv(d)])
        kills(f"kill: {name}", tmp_path / name.replace(" ", ""), work, state, 2, prepare)


# ---------------------------------------------------------------- no room


def limited(size, work):
    "Exit code and words of `work` in a child whose files may not grow beyond `size` bytes."
    read, write = os.pipe()  # for what the child says: a pipe has no size
    p = fork.Process(target=lambda: (os.dup2(write, 1), os.dup2(write, 2), _limited_child(size, work)))
    p.start()
    os.close(write)
    with os.fdopen(read, errors="replace") as said:
        text = said.read()
    p.join()
    return p.exitcode, text


def _limited_child(size, work):
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    os._exit(work() or 0)


def test_no_room(world, tmp_path):
    odd = shutil.copytree(world.data, tmp_path / "odd")  # with something to show
    first, second = sorted((odd / "train" / "images").iterdir())[:2]
    shutil.copy(first, second)
    commands = {
        "predict": lambda d: ["predict", world.run, world.data / "test" / "images", "--out", d],
        "evaluate --save": lambda d: ["evaluate", shutil.copytree(world.run, d, dirs_exist_ok=True), "--save"],
        "train": lambda d: [*world.train, d],
        "figure": lambda d: ["data", "check", odd, "--figure", d / "sheet.png"],
        "report": lambda d: ["report", world.run, "--out", d / "report.html"],
        "export": lambda d: ["export", world.run, "--out", d / "for-others", "--graphs", "none"],
        "table of predictions": lambda d: ["predict", world.run, world.data / "test" / "images", "--out", d, "--csv"],
    }
    if world.volume:
        commands["predict a volume"] = lambda d: ["predict", world.run, world.volume, "--out", d]
    for name, make in commands.items():
        for size in sample((0, 40, 400), 1) if name != "train" else (400,):
            d = tmp_path / f"{name.replace(' ', '')}{size}"
            argv = list(map(str, make(d)))
            argv += [] if "--quiet" in argv or argv[0] == "export" else ["--quiet"]
            before = hashes(d, ".png", ".gz")
            code, text = limited(size, lambda: main(argv))
            note(f"no room: {name}", CRASH if code == 70 or "Traceback" in text else SAID if code == 2 else OTHER)
            assert code != 2 or "cannot write" in text or "free some room" in text, text
            for _ in leftovers(d):
                note(f"no room: {name}", LEFT)
            for p, sha in hashes(d, ".png", ".gz").items():  # whole or absent
                if p not in before:
                    Image.open(d / p).load() if p.endswith(".png") else gzip.decompress((d / p).read_bytes())
            code, text = call(*argv)
            note(f"no room: {name}", SAME if code in (0, 1) else OTHER)
        clean(f"no room: {name}")


@pytest.mark.skipif(not FULL, reason="a file system of its own is mounted only in a full run (SCSAM_FAULTS=full)")
def test_a_full_file_system(world, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)]).returncode:
        pytest.skip("a file system can be mounted by root only")
    try:
        for free in (0, 1000, 8000):
            for f in small.rglob("*"):
                f.unlink() if f.is_file() else None
            (small / "fill").write_bytes(bytes(64 * 1024 - 4096 - free // 4096 * 4096))
            for source in (world.data / "test" / "images", world.volume):
                if source is None:
                    continue
                code, text = call("predict", world.run, source, "--out", small / "out", "--quiet")
                note("full file system", SAID if code == 2 else SAME if code == 0 else CRASH)
                for _ in leftovers(small):
                    note("full file system", LEFT)
        clean("full file system")
    finally:
        subprocess.run(["umount", str(small)])


@pytest.mark.skipif(not FULL, reason="a file system of its own is mounted only in a full run (SCSAM_FAULTS=full)")
@pytest.mark.parametrize("graph, file", [("torchscript", "unet.pt"), ("onnx", "unet.onnx")])
def test_a_full_file_system_in_export(world, tmp_path, graph, file):
    "PyTorch writes these files itself; the room ends before, within and at the end of them."
    pytest.importorskip("onnxruntime")
    small, whole = tmp_path / "small", tmp_path / "whole"
    assert call("export", world.run, "--out", whole, "--graphs", graph)[0] == 0
    own = (whole / file).stat().st_size
    rest = sum(p.stat().st_size for p in whole.iterdir()) - own
    small.mkdir()
    for part in (0, 0.3, 0.7, 0.98):
        size = f"size={(rest + int(own * part)) // 1024 + 24}k"
        if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(small)]).returncode:
            pytest.skip("a file system can be mounted by root only")
        try:
            code, text = call("export", world.run, "--out", small / "out", "--graphs", graph)
            note(f"full file system: {file}", SAID if code == 2 and "cannot write" in text else CRASH)
            for _ in small.iterdir():
                note(f"full file system: {file}", LEFT)
        finally:
            subprocess.run(["umount", str(small)])
    clean(f"full file system: {file}")


# ---------------------------------------------------------------- names are not paths


def test_hostile_names_stay_where_they_belong(world, tmp_path):
    "Ids and test sets that climb, by `evaluate --save` and `predict`."
    images = sorted((world.data / "train" / "images").iterdir())
    refused = []
    outside = tmp_path / "deep" / "outside"
    names = ["../../../../up", str(outside/"abs"), "a/b", "a__b", "A__B", "..", "x", "x_overlay", "con", "<img src=x>"]
    roles = ["test:../../../set", f"test:{outside}/set", "test:ok"]
    folder = tmp_path / "deep" / "data"
    folder.mkdir(parents=True)
    ids = [("train", f"t{i}") for i in range(6)] + [(roles[i % 3], n) for i, n in enumerate(names)]
    rows = [
        f"{image},{image.parents[1] / 'masks' / image.name},{role},{n}"
        for image, (role, n) in zip(images, ids, strict=True)]
    for role, n in ids[6:]:  # some are refused at once; what is not must stay in its place
        (folder / "d.csv").write_text(f"image,mask,role,id\n{images[0]},,{role},{n}\n")
        try:
            load_dataset(folder / "d.csv")
        except ScsamError:
            refused.append((role, n))
    kept = [row for row, id in zip(rows, ids, strict=True) if id not in refused]
    names = [n for id, (_, n) in zip(ids[6:], ids[6:], strict=True) if id not in refused]
    (folder / "d.csv").write_text("image,mask,role,id\n" + "\n".join(kept) + "\n")
    csv, run, out = folder / "d.csv", tmp_path / "deep" / "runs" / "r", tmp_path / "deep" / "out"
    argv = [
        "train", "--data", csv,
        *"--preset smoke --method unet --labeled 4 --steps 2 --image-size 32 --quiet --out".split(), run]
    code, text = call(*argv)
    assert code == 0, text
    elsewhere = lambda: {p for p in tmp_path.rglob("*") if not {run, out} & {p, *p.parents}}
    before = elsewhere()
    code, text = call("evaluate", run, "--save", "--quiet")
    assert code == 0, text
    assert elsewhere() == before
    assert len(list((run / "predictions").rglob("*.png"))) == len(names)
    code, text = call("predict", run, csv, "--out", out, "--quiet")
    assert code == 0, text
    assert elsewhere() == before
    assert len(list(out.glob("*.png"))) == 2 * (6 + len(names))


def test_a_file_without_an_end_is_no_file(world, tmp_path):
    "A pipe or a link to a device in the place of each file of a run: named at once, never read."
    for name in ("recipe.json", "manifest.json", "training.json", "model.safetensors", "data.json"):
        for make in (os.mkfifo, lambda p: p.symlink_to("/dev/zero"), os.mkdir):
            d = world.copy(tmp_path / f"r{len(list(tmp_path.iterdir()))}")
            (d / name).unlink()
            make(d / name)
            code, text = call("evaluate", d, "--quiet")
            assert code == 2 and name in text and "is not a file" in text, (name, text)
    for name in (".scsam-predict.jsonl", "all.csv"):
        folder = shutil.copytree(world.data / "test" / "images", tmp_path / name)
        os.mkfifo(folder / name)
        source = folder if name == "all.csv" else world.data / "test" / "images"
        code, text = call("predict", world.run, source, "--out", folder, "--quiet")
        assert code in (0, 2) and "Traceback" not in text, text


def test_links_lead_nowhere(world, tmp_path):
    "Not out of a run, neither what is written nor what is handed on."
    d, secret, elsewhere = world.copy(tmp_path / "run"), tmp_path / "secret", tmp_path / "elsewhere"
    secret.write_text("SECRET")
    elsewhere.mkdir()
    (d / "predictions").symlink_to(elsewhere)
    code, text = call("evaluate", d, "--save", "--quiet")
    assert code == 2 and "leads out of the run" in text and not list(elsewhere.iterdir()), text
    (d / "history.json").unlink()
    (d / "history.json").symlink_to(secret)
    code, text = call("export", d, "--out", tmp_path / "shared", "--graphs", "none")
    assert code == 2 and "history.json" in text and not (tmp_path / "shared").exists(), text
    out = tmp_path / "out"
    out.mkdir()
    for name in (".scsam-predict.jsonl", f"{next((world.data / 'test' / 'images').iterdir()).stem}.png"):
        (out / name).symlink_to(secret)
        call("predict", world.run, world.data / "test" / "images", "--out", out, "--overwrite", "--quiet")
        assert secret.read_text() == "SECRET", name


def test_names_that_are_no_text(world, tmp_path):
    "A file whose name is not UTF-8, a path that is too long, one with a zero byte, a folder that is gone meanwhile."
    folder = tmp_path / "in"
    folder.mkdir()
    shutil.copy(next((world.data / "train" / "images").iterdir()), os.fsencode(folder) + b"/\xff.png")
    code, text = call("predict", world.run, folder, "--out", tmp_path / "out", "--quiet")
    assert code == 0 and len(list((tmp_path / "out").glob("*.png"))) == 2, text
    code, text = call("predict", world.run, folder, "--out", tmp_path / "out", "--csv", "--quiet")
    assert code == 2 and "not UTF-8" in text and "Traceback" not in text, text
    for argv in (["evaluate", "x" * 5000], ["evaluate", "a\0b"], ["predict", world.run, folder, "--out", "a\0b"],
                 ["predict", world.run, folder, "--out", tmp_path / ("y" * 300)]):
        code, text = call(*argv)
        assert code == 2 and "Traceback" not in text, text
    gone = shutil.copytree(world.data, tmp_path / "gone")
    cases = [*load_dataset(gone / "test" / "images")]
    shutil.rmtree(gone)
    with pytest.raises(ScsamError, match="colour"):
        predict_files(load_run(world.run), cases, tmp_path / "lost")
    assert not list((tmp_path / "lost").glob("*.png"))


# ---------------------------------------------------------------- what a person edits


def test_an_edited_run_says_so(world, tmp_path):
    def edit(name, change):
        d = world.copy(tmp_path / f"r{len(list(tmp_path.iterdir()))}")
        value = json.loads((d / name).read_text())
        change(value)
        (d / name).write_text(json.dumps(value))
        return d

    def to_test(m):
        for c in m["cases"]:
            c["role"] = "test:test"

    def to_test_with_its_hash(m):
        to_test(m)
        m["sha256"] = manifest_sha256(m["cases"])

    edits = [
        ("recipe.json", lambda r: r.update(image_size=64)), ("recipe.json", lambda r: r.update(seed=5)),
        ("recipe.json", lambda r: r.update(steps=5)), ("manifest.json", to_test),
        ("manifest.json", to_test_with_its_hash), ("training.json", lambda t: t["selected"].update(branch="unet2")),
        ("training.json", lambda t: t["budget"].update(labeled=1)), ("model.safetensors", None)]
    for name, change in edits:
        if change:
            d = edit(name, change)
        else:  # the whole model of another training
            d = world.copy(tmp_path / "other")
            tensors, meta = load_tensors(d / name)
            save_tensors(d / name, {k: 1.5 * v if v.is_floating_point() else v for k, v in tensors.items()}, meta)
        for argv in (["evaluate", d], ["predict", d, world.data / "test" / "images", "--out", tmp_path / "out"]):
            code, text = call(*argv, "--quiet")
            assert code == 2 and name in text and "--force" in text, (name, text)
    d = edit("recipe.json", lambda r: r.update(seed=5))
    assert call("evaluate", d, "--force", "--quiet")[0] == 0


def test_killed_at_the_very_end(world, tmp_path):
    "The run is finished, and what training no longer needs is still there: the same command removes it."
    d = world.copy(tmp_path / "run")
    (d / "checkpoints").mkdir()
    for name in (".lock", "checkpoints/step-0000004.safetensors"):
        (d / name).touch()
    before = trained(world.run)
    assert call(*world.train, d)[0] == 0
    assert trained(d) == before and not (d / "checkpoints").exists() and not leftovers(d)


def test_a_run_whose_place_is_lost(world, tmp_path, monkeypatch):
    "Its folder is moved away, or its disk taken out: said at the next checkpoint, and nothing is begun in its place."
    from scsam import learner

    d, away, learn = tmp_path / "run", tmp_path / "away", learner._Training.learn

    def then_lost(run):
        learn(run)
        if run.step == 3:
            d.rename(away)
            d.mkdir()  # as a mount leaves it

    with monkeypatch.context() as m:
        m.setattr(learner._Training, "learn", then_lost)
        code, text = call(*world.train, d)
    assert code == 2 and "has lost its recipe.json" in text and not list(d.iterdir()), (text, list(d.iterdir()))
    d.rmdir()
    away.rename(d)
    assert call(*world.train, d)[0] == 0 and trained(d) == trained(world.run)


def test_history_of_another_shape_does_not_stop_a_run(world, tmp_path):
    d = tmp_path / "run"
    argv = [*world.train, d]
    assert call(*argv, "--max-minutes", 0)[0] == 3
    (d / "history.json").write_text("null")
    code, text = call(*argv)
    assert code == 0 and "curves begin" in text, text


def test_moved_data_names_the_option(world, tmp_path):
    d = world.copy(tmp_path / "run")
    where = read_json(d / "data.json")
    (d / "data.json").write_text(json.dumps({**where, "path": str(tmp_path / "gone")}))
    code, text = call("evaluate", d, "--quiet")
    assert code == 2 and "--data" in text
    assert call("evaluate", d, "--data", world.data, "--quiet")[0] == 0
    argv = ["predict", d, world.data / "test" / "images", "--out", tmp_path / "out", "--tidy", "auto", "--quiet"]
    code, text = call(*argv)
    assert code == 2 and "--data" in text
    assert call(*argv, "--data", world.data)[0] == 0  # the remedy that is named is one of this command


def test_evaluate_keeps_what_auto_measured(world, tmp_path):
    d = world.copy(tmp_path / "run")
    assert call("evaluate", d, "--quiet")[0] == 0
    record = read_record(d / "record.json")
    (name, scores), = record["scores"].items()
    write_record(add_scores(record, {OUT_OF_FOLD: scores}), d / "record.json")
    assert call("evaluate", d, "--quiet")[0] == 0
    assert {*read_record(d / "record.json")["scores"]} == {name, OUT_OF_FOLD}
    edited = (d / "record.json").read_text().replace('"steps": ', '"steps": 1', 1)
    (d / "record.json").write_text(edited)
    code, text = call("evaluate", d, "--quiet")
    assert code == 0 and "scores out of fold are not kept" in text, text
    (d / "record.json").write_text("[]")
    code, text = call("evaluate", d, "--quiet")
    assert code == 0 and "record.json" in text and "replaced" in text, text
    assert {*read_record(d / "record.json")["scores"]} == {name}


def test_an_argument_too_many_is_named(tmp_path):
    for more in (["list.csv"], [""], ["my file.png"]):
        code, text = call("predict", "run", "images", "--out", tmp_path / "out", *more)
        assert code == 2 and f"{more[0]!r} is one argument too many" in text, text
    code, text = call("predict", "run", "images", "--out", tmp_path / "out", "list.csv", "--cvs")
    assert code == 2 and "did you mean '--csv'" in text, text
    code, text = call("predict", "run", "images", "--out", tmp_path / "out", "--zzzz")  # of this command only
    assert code == 2 and "--csv" in text and "--port" not in text, text


@pytest.mark.parametrize("argv", (("data", ""), ("train", "--data", "", "--out", "x"), ("inspect", ""),
                                  ("evaluate", "run", "--record", ""),
                                  ("train", "--data", "d", "--out", "x", "--plugin", ""),
                                  ("predict", "run", "images", "--out", "")))
def test_an_empty_path_is_refused(argv, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, text = call(*argv)
    assert code == 2 and "a path is empty" in text and not list(tmp_path.iterdir()), text


def test_metrics_that_name_none_are_refused(world, tmp_path):
    d = world.copy(tmp_path / "run")
    before = (d / "record.json").read_bytes()
    code, text = call("evaluate", d, "--metrics", " , ", "--quiet")
    assert code == 2 and "names no metric" in text and (d / "record.json").read_bytes() == before, text


LARGE = """
import resource, sys, scsam.check, scsam.experiment, scsam.folds, scsam.predict
from scsam.cli import main
used = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before, code = used(), main(sys.argv[1:])
print("MB", used(), used() - before)
sys.exit(code)
"""


OWN = 200  # MB: batches, layers, rounding


def test_a_large_image_needs_little_memory(world, tmp_path):
    """Of one image of 100 megapixels: what libraries take (800 MB with a PyTorch for CUDA), and 5 bytes a pixel: 4 as
    Pillow holds it, 1 for the label map. From a shell, since this process is large already."""
    n = 10_000 if FULL else 4_000
    image = tmp_path / "in" / "large.png"
    image.parent.mkdir()
    Image.fromarray(np.zeros((n, n, 3), np.uint8)).save(image, compress_level=1)
    for argv in (["predict", world.run, image.parent, "--out", tmp_path/"out", "--maps",
                  "--quiet"], ["data", "check", image.parent, "--quiet"]):
        p = subprocess.run([sys.executable, "-c", LARGE, *map(str, argv)], capture_output=True, text=True, timeout=900)
        assert p.returncode in (0, 1, 2) and "Traceback" not in p.stderr, p.stderr
        total, own = map(float, p.stdout.split("MB")[-1].split())
        print(f"{argv[0]}: {total:.0f} MB, {own:.0f} of them for an image of {n*n/1e6:.0f} megapixels")
        assert own < OWN + 5 * n * n / 1e6 and total < 1500, (argv[0], total, own)
    assert Image.open(tmp_path / "out" / "large.png").size == (n, n)


@pytest.fixture(scope="module", autouse=True)
def report():
    yield
    columns = [SAID, SAME, OTHER, CRASH, LEFT]
    print(f"\n{'':28}{'tried':>7}" + "".join(f"{c:>26}" for c in columns))
    print("\n".join(map(row, REPORT)))


if __name__ == "__main__":
    raise SystemExit(
        subprocess.run([sys.executable, "-m", "pytest", "-q", "-s", __file__],
                       env={"SCSAM_FAULTS": "full", **os.environ}).returncode)
