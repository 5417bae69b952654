"""Situations from public reports: each folder of ../shared/cases makes a small input; here is what is right for it."""
import contextlib
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scsam.check import check
from scsam.cli import main
from scsam.config import ScsamError
from scsam.datasets import inputs, load_dataset

CASES = Path(__file__).resolve().parents[2] / "shared" / "cases"
FOLDERS = {d.name[:2]: d for d in sorted(CASES.glob("[0-9][0-9]-*"))}
RIGHT = {}


def right(number):
    "Register what is right for a case: a function of its input folder."

    def keep(f):
        RIGHT[number] = f
        return f

    return keep


def scsam(*args):
    "The exit code of a command, and what it printed."
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        code = main([str(a) for a in args])
    return code or 0, out.getvalue()


def train(data, *more):
    "A run of two steps of a small U-Net."
    run = data.parent / "run"
    code, said = scsam("train", "--data", data, "--preset", "smoke", "--method", "unet", "--steps", "2", "--val-every",
                       "1", "--out", run, "--quiet", *more)
    assert code == 0, said
    return run


@pytest.fixture(scope="module")
def any_run(tmp_path_factory):
    "A run to predict with."
    run = tmp_path_factory.mktemp("any") / "run"
    code, said = scsam("train", "--data", "phantom", "--preset", "smoke", "--method", "unet", "--steps", "1",
                       "--val-every", "1", "--out", run, "--quiet")
    assert code == 0, said
    return run


def error_of(data):
    "All errors that a check finds, as one text."
    return "\n".join(f.message for f in check(data, errors_only=True).findings)


def contrast(case):
    "Mean grey inside and outside of the mask."
    grey, mask = case.read_image().mean(-1), case.read_mask() == 1
    return grey[mask].mean(), grey[~mask].mean()


@right("05")
def _(data, run):
    said = error_of(data)
    assert "255" in said and "c000.png" in said


@right("06")
def _(data, run):
    said = error_of(data)
    assert "255" in said and "c001.png" in said and "c000.png" not in said


@right("07")
def _(data, run):
    d = load_dataset(data)
    assert len(d) == 8 and all(c.has_mask for c in d) and "several masks" in str(d)
    joined = next(c for c in d if c.id == "benign (2)").read_mask()
    parts = [np.asarray(Image.open(data / f"benign (2)_mask{n}.png")) > 0 for n in ("", "_1")]
    assert (joined == (parts[0] | parts[1])).all()


@right("09")
def _(data, run):
    d = load_dataset(data)
    assert len(d) == 8 and all(c.mask.stem == c.image.stem + "_segmentation" for c in d)
    assert "threshold" in error_of(data)
    (data / "classes.json").write_text('{"threshold": 127}')
    assert not error_of(data)


@right("18")
def _(data, run):
    roles = {c.id: c.role for c in load_dataset(data)}
    assert sorted(roles.values()) == ["test:test"] * 4 + ["train"] * 8
    assert all(("test" in Path(i).name) == r.startswith("test") for i, r in roles.items())


@right("20")
def _(data, run):
    code, said = scsam("predict", run, data, "--out", data.parent / "out", "--quiet")
    assert code == 0 and "photo.heic" in said
    assert {p.name for p in (data.parent/"out").glob("*") if "overlay" not in p.name and p.name[0] != "."
            } == {"p0.png", "p1.png", "p2.png", "scan_segmentation.nii.gz"}


@right("35")
def _(data, run):
    for layout in ("table", "folders"):
        d = load_dataset(data)
        assert d.by_patient and {c.patient.split("/")[-1] for c in d} == {f"patient{p:03d}" for p in range(1, 7)}
        assert len({c.image for c in d}) == 12
        if layout == "table":
            mine = train(data, "--labeled", "2")
            code, said = scsam("evaluate", mine, "--quiet")
            assert code == 0, said
            scores = json.loads((mine / "record.json").read_text())["scores"]["ACDC"]
            assert len(scores["ids"]) == 4
            (data / "cases.csv").unlink()


@right("37")
def _(data, run):
    d = load_dataset(data)
    volumes = {(c.role, c.image.parent.parent.name, c.image.name) for c in d}
    assert len([v for v in volumes if v[0] == "train"]) == 4
    assert {v[2] for v in volumes if v[0] == "test:test"} == {"c4.nii.gz", "c5.nii.gz"}


@right("63")
def _(data, run):
    code, said = scsam("predict", run, data / "images", "--out", data.parent / "out", "--quiet")
    assert code == 0, said
    masks = [p for p in (data.parent / "out").glob("*.png") if Image.open(p).mode == "L"]
    assert len(masks) == 4 and sorted(Image.open(p).size for p in masks) == [(40, 30), (40, 30), (64, 48), (64, 48)]


@right("64")
def _(data, run):
    d = load_dataset(data)
    assert len(d) == 6 and all(c.has_mask for c in d) and "GroundTruth.csv" in str(d)


@right("50")
def _(data, run):
    found = inputs(data)
    assert len({c.image for c in found.cases}) == 2
    assert any(p.name == "AAA_readme.txt" for p in found.left)


@right("01")
@right("04")
def _(data, run):
    d = load_dataset(data)
    assert not error_of(data) and {c.read_image().shape for c in d} == {(64, 48, 3)}
    assert all(inside > outside + 60 for inside, outside in map(contrast, d))


@right("10")
def _(data, run):
    assert "do not survive a JPEG" in error_of(data)


@right("11")
def _(data, run):
    assert not error_of(data)
    assert all(0.01 < c.read_mask().mean() < 0.3 and contrast(c)[0] > contrast(c)[1] + 60 for c in load_dataset(data))


@right("14")
def _(data, run):
    d = load_dataset(data)
    assert all(c.read_image().max() > 240 for c in d) and all(contrast(c)[0] > contrast(c)[1] + 60 for c in d)


@right("30")
def _(data, run):
    said = error_of(data)
    assert "direction" in said and "images/c0.nii.gz" in said and "labels/c0.nii.gz" in said
    assert all(
        contrast(c)[0] > contrast(c)[1] + 60 for c in load_dataset(data, labels="resample") if c.read_mask().any())


@right("33")
def _(data, run):
    from scsam.volumes import read_volume

    mine = train(data, "--labeled", "2")
    code, said = scsam("predict", mine, data / "images", "--out", data.parent / "out", "--quiet")
    assert code == 0 and "values 0, 2, 5" in said, said
    for p in (data.parent / "out").glob("*.nii.gz"):
        assert set(np.unique(read_volume(p).array).tolist()) <= {0, 2, 5}


@right("39")
def _(data, run):
    assert scsam("predict", run, data / "UP.NII.GZ", "--out", data.parent / "out", "--quiet")[0] == 0
    code, said = scsam("predict", run, data / "plain.nii.gz", "--out", data.parent / "two", "--quiet")
    assert code == 2 and "rename it to end in .nii" in said


@right("42")
def _(data, run):
    for name, remedy in (("slice2d", "a single image"), ("cine4d", "volumes of")):
        code, said = scsam("predict", run, data / f"{name}.nii.gz", "--out", data.parent / name, "--quiet")
        assert code == 2 and remedy in said and "copy it again" not in said, said
    assert scsam("predict", run, data / "one4d.nii.gz", "--out", data.parent / "one", "--quiet")[0] == 0


@right("43")
def _(data, run):
    from scsam.volumes import grid_difference, read_volume

    code, said = scsam("predict", run, data, "--out", data.parent / "out", "--quiet")
    assert code == 0, said
    images = sorted({c.image for c in inputs(data).cases})
    masks = sorted(p for p in (data.parent / "out").glob("*_segmentation.*"))
    assert len(images) == len(masks) > 0
    assert not any(grid_difference(read_volume(a), read_volume(b)) for a, b in zip(images, masks))


@right("51")
def _(data, run):
    with pytest.raises(ScsamError, match="at the same place"):
        load_dataset(data / "s")


@right("53")
def _(data, run):
    "The files of this case say MONOCHROME2 (GDCM writes nothing else), so that the truth is put into them here."
    for p in (data / "m1").iterdir():
        p.write_bytes(p.read_bytes().replace(b"MONOCHROME2", b"MONOCHROME1"))
    one, two = (np.stack([c.read_image() for c in load_dataset(data / m)]) for m in ("m1", "m2"))
    assert (one == two).all()


@right("59")
def _(data, run):
    d = load_dataset(data)
    assert not error_of(data) and any(f.kind == "infinite" for f in check(data).findings)
    assert all(c.read_image()[:, :6].max() == 0
               for c in d) and np.mean([contrast(c)[0] - contrast(c)[1] for c in d if c.read_mask().any()]) > 60


@right("60")
def _(data, run):
    from scsam.sam import load_sam

    for p in data.iterdir():
        if p.name not in ("html.pth", "cut.pth"):
            assert load_sam("tiny", p, 64).sha256
    for name, why in (("html.pth", "web page"), ("cut.pth", "cut short")):
        with pytest.raises(ScsamError, match=why):
            load_sam("tiny", data / name, 64)


@pytest.mark.parametrize("number", sorted({*FOLDERS, *RIGHT}) if FOLDERS else ["none"])
def test_case(number, tmp_path, any_run):
    if not FOLDERS:
        pytest.skip(f"{CASES} is not here")
    if number not in RIGHT:
        pytest.skip(f"{FOLDERS[number].name}: not told here what is right")
    if number not in FOLDERS:
        pytest.skip(f"case {number} is not in {CASES}")
    data = tmp_path / "IN"
    subprocess.run([sys.executable, FOLDERS[number] / "make.py", data], check=True, capture_output=True)
    RIGHT[number](data, any_run)


def pairs(root, *names):
    "Images with a bright square, and their masks; a name is a path with {} for the folder of images or of masks."
    for i, name in enumerate(names):
        square = np.zeros((24, 32), np.uint8)
        square[8:16, 10:20] = 1
        grey = np.random.default_rng(i).normal(70, 9, square.shape) + 100 * square
        for thing, a in (("images", grey.clip(0, 255).astype(np.uint8)), ("masks", square * 255)):
            path = root / name.format(thing)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(a).save(path)


@pytest.mark.parametrize("words", ["Training Validierung Testdaten", "entrenamiento validación prueba",
                                   "apprentissage validation essai", "treino validação teste", "训练集 验证集 测试集"])
def test_splits_in_other_languages(words, tmp_path):
    pairs(tmp_path, *[f"{w}/{{}}/{i}.png" for i, w in enumerate(words.split())])
    assert [c.role for c in load_dataset(tmp_path)] == ["train", "val", "test:test"]


def test_splits_in_lists(tmp_path):
    pairs(tmp_path, *[f"{{}}/c{i}.png" for i in range(4)])
    (tmp_path / "train.txt").write_text("c0\nc1\n")
    (tmp_path / "test.txt").write_text("images/c2.png\nc3.png 1\n")
    assert [c.role for c in load_dataset(tmp_path)] == ["train"] * 2 + ["test:test"] * 2


@pytest.mark.parametrize("column, cell, ours", [("split", "test", "role"), ("subject_id", "p1", "patient"),
                                                ("label", "masks/c0.png", "mask")])
def test_columns_under_other_names(column, cell, ours, tmp_path):
    pairs(tmp_path, "{}/c0.png")
    (tmp_path / "cases.csv").write_text(f"image,{column}\nimages/c0.png,{cell}\n")
    with pytest.raises(ScsamError, match=f'call it "{ours}"'):
        load_dataset(tmp_path)


def test_white_backgrounds_are_said(tmp_path):
    "On the command line, by everything that reads masks; the line that it gives corrects them."
    root = tmp_path / "white"
    pairs(root, *[f"{{}}/c{i}.png" for i in range(6)])
    for p in (root / "masks").iterdir():
        Image.fromarray(255 - np.asarray(Image.open(p))).save(p)
    auto = ["auto", root, "--preset", "smoke", "--methods", "unet", "--dry-run", "--out", tmp_path / "auto", "--quiet"]
    run = ["train", "--data", root, "--preset", "smoke", "--method", "unet", "--steps", "1", "--out", tmp_path / "run",
           "--quiet"]
    line = '{"background": 255, "foreground": 0}'
    for words, wanted in ((["data", root], 0), (["data", "check", root, "--quiet"], 1), (auto, 0), (run, 0)):
        code, said = scsam(*words)
        assert code == wanted and line in said and "background seems to be labelled as foreground" in said, said
    (root / "classes.json").write_text(line)
    for words in (["data", root], ["data", "check", root, "--quiet"]):
        code, said = scsam(*words)
        assert code == 0 and "seems" not in said, said


@pytest.mark.parametrize("images, masks", [("{}/scan", "{}/wall"), ("before", "delineated"), ("A", "B")])
def test_masks_under_unknown_names(images, masks, tmp_path):
    "They would be trained on as images: said by data, an error of the check, and no hindrance to predict."
    root = tmp_path / "unknown"
    pairs(root, *[f"{{}}/c{i}.png" for i in range(4)])
    for i in range(4):
        for was, now in (("images", images), ("masks", masks)):
            path = root / f"{now.format(f'P{i}')}/c{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            (root / f"{was}/c{i}.png").rename(path)
    for p in ("images", "masks"):
        (root / p).rmdir()
    code, said = scsam("data", root)
    assert code == 0 and "look like masks" in said, said
    assert "look like masks" in scsam("data", "check", root, "--quiet")[1] and "in /" in error_of(root)
    assert len(inputs(root).cases) == 8


@pytest.mark.parametrize("top, wanted", [(255, {0, 255}), (1, {0, 1})])
def test_predictions_are_grey(top, wanted, tmp_path):
    "Every program reads the numbers of the data set's own masks: no palette comes between."
    root = tmp_path / "set"
    pairs(root, *[f"{{}}/c{i}.png" for i in range(6)])
    for p in (root / "masks").iterdir():
        Image.fromarray(np.asarray(Image.open(p)) // 255 * np.uint8(top)).save(p)
    run = train(root)
    code, said = scsam("predict", run, root / "images", "--out", tmp_path / "out", "--quiet")
    assert code == 0 and (f"values 0, {top}, as in" in said or top == 1), said
    for p in (tmp_path / "out").glob("c?.png"):
        stored = Image.open(p)
        assert stored.mode == "L" and {*np.unique(stored).tolist()} <= wanted


@pytest.mark.parametrize("where", ["", "out", "masks"])
def test_predictions_are_not_predicted_on(where, any_run, tmp_path):
    "Called again, predict reads what it read before, and no mask of its own counts as truth."
    new = tmp_path / "new"
    pairs(new, *[f"{{}}/c{i}.png" for i in range(3)])
    for p in (new / "masks").iterdir():
        p.unlink()
    (new / "masks").rmdir()
    images = new / "images"
    Image.open(images / "c2.png").save(images / "c2.jpg")
    (images / "c2.png").unlink()
    if where == "":  # beside the images, where c0.png is one of them
        image = (images / "c0.png").read_bytes()
        code, said = scsam("predict", any_run, images, "--out", images, "--quiet", "--overwrite")
        assert code == 2 and "is an input" in said and (images / "c0.png").read_bytes() == image
        for p in list(images.glob("*.png")):
            Image.open(p).save(p.with_suffix(".jpg"))
            p.unlink()
    out, before = (images if where == "" else new / where), sorted(images.iterdir())
    for turn in range(2):
        code, said = scsam("predict", any_run, new if where else images, "--out", out, "--quiet")
        assert code == 0 and "\n3 masks" in "\n" + said and "Dice" not in said, said
        assert ("made by scsam predict" in said) == (turn == 1)
    assert len([p for p in out.glob("*.png") if p not in before]) == 6, "a mask and an overlay each"
    Image.fromarray(np.full((24, 32), 255, np.uint8)).save(out / "c0.png")  # a person's now
    if where == "masks":
        code, said = scsam("data", new)
        assert code == 2 and "c0_overlay.png" in said and "no image of the same name" in said
        for p in out.glob("*_overlay.png"):
            p.unlink()
        assert "2 masks are predictions that nobody has changed" in scsam("data", new)[1]
    made = [p for p, why in inputs(new).left.items() if why == "made by scsam predict"]
    assert len(made) == (2 if where == "masks" else 5) and out / "c0.png" not in made


@pytest.mark.parametrize("told", ["list", "json", "table"])
def test_unlabelled_by_a_list(told, tmp_path):
    "What a list calls unlabelled is learnt from without its mask."
    pairs(tmp_path, *[f"{{}}/c{i}.png" for i in range(4)])
    splits = {"labeled": ["c0"], "unlabeled": ["c1", "c2"], "test": ["c3"]}
    if told == "list":
        for name, lines in splits.items():
            (tmp_path / f"{name}.txt").write_text("\n".join(lines))
        (tmp_path / "train.txt").write_text("c0\nc1\nc2")
    elif told == "json":
        (tmp_path / "splits.json").write_text(json.dumps(splits))
    else:
        rows = [f"images/{n}.png,masks/{n}.png,{role}" for role, names in splits.items() for n in names]
        (tmp_path / "cases.csv").write_text("\n".join(["image,mask,role", *rows]))
    data = load_dataset(tmp_path)
    assert [(c.role, c.has_mask) for c in data] == [("train", True), *[("train", False)] * 2, ("test:test", True)]
    assert list(data.left.values()) == ["a mask in the unlabelled part"] * 2
    if told == "table":
        (tmp_path / "cases.csv").write_text("image,mask,labeled\nimages/c0.png,masks/c0.png,1\nimages/c1.png,,0\n")
        with pytest.raises(ScsamError, match='call it "role"'):
            load_dataset(tmp_path)
        (tmp_path / "cases.csv").write_text("image,mask,label\nimages/c0.png,masks/c0.png,1\nimages/c1.png,,0\n")
        assert [c.has_mask for c in load_dataset(tmp_path)] == [True, False], "a label of 0 or 1 is a class of images"


def test_a_folder_for_the_run_may_be_there(tmp_path):
    "The data is checked before a training, whether or not its directory exists."
    pairs(tmp_path / "d", *[f"train/{{}}/{i}.png" for i in range(3)], "test/{}/9.png")
    for thing in ("images", "masks"):
        (tmp_path / "d/test" / thing / "9.png").write_bytes((tmp_path / "d/train" / thing / "0.png").read_bytes())
    (tmp_path / "run").mkdir()
    code, said = scsam("train", "--data", tmp_path / "d", "--preset", "smoke", "--steps", "1", "--out",
                       tmp_path / "run", "--quiet")
    assert code == 2 and "both sides of a split" in said


def test_decisions_that_change_nothing_are_said(tmp_path):
    "About images that have masks of their own."
    from scsam.decisions import Decisions
    pairs(tmp_path / "d", *[f"{{}}/{i}.png" for i in range(4)])
    (tmp_path / "d/masks/3.png").unlink()
    decisions = Decisions(tmp_path / "decisions")
    decisions.set("0", "rejected")
    decisions.set("3", "rejected")
    decisions.set("1", "corrected", np.zeros((24, 32), np.uint8))
    code, said = scsam("train", "--data", tmp_path / "d", "--preset", "smoke", "--method", "unet", "--steps", "1",
                       "--val", "0", "--labeled", "100%", "--decisions", tmp_path / "decisions", "--out",
                       tmp_path / "run", "--quiet")
    assert code == 0 and "2 labelled" in said and "2 rejected" in said, said   # whether it has a mask or not
    assert "1 decision changes nothing here" in said and "gone: 1\n" in said, said


def test_a_plugin_stays_with_its_run(tmp_path):
    "Another version of it continues no run; an exported run has it; one that ends Python is a fault of its own."
    plugin = tmp_path / "mine.py"
    plugin.write_text("from scsam.method import register\nfrom scsam.baselines import UNetOnly\n"
                      "@register('mine')\nclass Mine(UNetOnly): pass\n")
    run = ["train", "--plugin", plugin, "--method", "mine", "--data", "phantom", "--preset", "smoke", "--steps", "2",
           "--val", "0", "--out", tmp_path / "run", "--quiet"]
    code, said = scsam(*run)
    assert code == 0 and "finished before" not in said, said
    assert "finished before" in scsam(*run, "--snapshots", "2")[1]
    kept = (tmp_path / "run/plugin.py").read_bytes()
    assert scsam("export", tmp_path / "run", "--out", tmp_path / "card", "--graphs", "none")[0] == 0
    assert (tmp_path / "card/plugin.py").read_bytes() == kept
    assert "--plugin" in (tmp_path / "card/README.md").read_text()
    plugin.write_text(plugin.read_text() + "# changed\n")
    code, said = scsam(*run)
    assert code == 2 and "another version" in said and (tmp_path / "run/plugin.py").read_bytes() == kept
    plugin.write_text("import sys\nsys.exit()\n")
    code, said = scsam(*run)
    assert code == 2 and "cannot be run: SystemExit" in said


def test_runs_that_are_asked_for(tmp_path):
    "An empty --only is no wish for everything; a list shows what it can show."
    for more, says in ((("--only", ""), "names no run"), (("--only", ","), "names no run"),
                       (("--list", "--only", "x"), "the whole queue")):
        code, said = scsam("experiment", "unets", "--mode", "smoke", "--runs", tmp_path, "--results", tmp_path, *more)
        assert code == 2 and says in said, said
