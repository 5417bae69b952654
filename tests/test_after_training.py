"""What people do with a run: change its data or classes, edit what was written, load a method with a mistake in it."""
import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_cases import scsam

from scsam.auto import auto, for_method, make_plan
from scsam.config import Recipe, ScsamError
from scsam.datasets import load_dataset
from scsam.decisions import Decisions, read_decisions
from scsam.feed import assign_roles
from scsam.learner import fit, load_run, make_method
from scsam.method import load_plugin, methods
from scsam.predict import predict_files, tidy
from scsam.trust import look_first

TRAIN = ("--preset", "smoke", "--method", "unet", "--labeled", "100%", "--quiet")


def picture(size=(48, 64), discs=()):
    "An image with coloured discs, and its label map; a disc is (y, x, radius, class)."
    y, x = np.mgrid[:size[0], :size[1]]
    image, mask = np.full((*size, 3), 80, np.uint8), np.zeros(size, np.uint8)
    for cy, cx, r, c in discs:
        inside = (y - cy) ** 2 + (x - cx) ** 2 < r * r
        image[inside], mask[inside] = (220, 60, 60) if c == 1 else (60, 60, 220), c
    return image + np.random.default_rng(0).integers(0, 12, image.shape, np.uint8), mask


def folder(at, classes=("background", "c1", "c2"), bare=2, test=2):
    "Ten images with masks of two classes, some without, and a test part."
    (at / "classes.txt").parent.mkdir(parents=True)
    (at / "classes.txt").write_text("\n".join(classes))
    for n in range(10 + bare + test):
        part = at / "test" if n >= 10 + bare else at
        image, mask = picture(discs=((14 + n, 16, 9, 1), (24, 46 - n, 7, 2)))
        for kind, a in (("images", image), ("masks", mask)):
            (part / kind).mkdir(parents=True, exist_ok=True)
            if kind == "images" or not 10 <= n < 10 + bare:
                Image.fromarray(a).save(part / kind / f"p{n:02}.png")
    return at


def turn(data):
    "The same names and values in another order."
    (data / "classes.txt").unlink()
    (data / "classes.json").write_text('{"background": 0, "c2": 2, "c1": 1}')


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    "A run of three classes, and its data."
    at = tmp_path_factory.mktemp("run")
    data = folder(at / "data")
    assert scsam("train", "--data", data, *TRAIN, "--out", at / "run")[0] == 0
    return at / "run", data


def test_a_class_table_in_another_order_is_other_data(run, tmp_path):
    data = folder(tmp_path / "data")
    half = ("train", "--data", data, *TRAIN, "--out", tmp_path / "half", "--steps", "4")
    assert scsam(*half, "--max-minutes", "0")[0] == 3
    turn(data)
    for command in (half, ("evaluate", run[0], "--data", data)):
        code, said = scsam(*command)
        assert code == 2 and "(background 0, c2 2, c1 1) here, and (background 0, c1 1, c2 2) there" in said, said
    code, said = scsam("data", "compare", data, run[0])
    assert code == 1 and "the class table is" in said, said
    code, said = scsam("predict", run[0], data, "--out", tmp_path / "whole")
    assert code == 0 and "which are not compared: the class table" in said, said
    code, said = scsam("predict", run[0], data / "test", "--out", tmp_path / "test")     # no table: the run's own
    assert code == 0 and "2 of these images have masks beside them: Dice" in said, said
    for mask in (data / "test" / "masks").iterdir():
        Image.fromarray((np.asarray(Image.open(mask)) == 1).astype(np.uint8) * 255).save(mask)
    code, said = scsam("predict", run[0], data / "test", "--out", tmp_path / "white")
    assert code == 0 and said.count("is not compared") == 2 and "Dice" not in said, said
    for mask in (data / "test" / "masks").iterdir():
        mask.write_bytes((run[1] / "test" / "masks" / mask.name).read_bytes())
    (data / "classes.json").write_text('{"background": 0, "liver": 1, "kidney": 2}')  # other names: the same classes
    assert scsam("evaluate", run[0], "--data", data, "--quiet")[0] == 0


def test_decisions_know_their_classes(tmp_path):
    data = load_dataset(folder(tmp_path / "data"))
    bare = next(c for c in data if not c.has_mask)
    Decisions(tmp_path / "made", data.class_names).set(bare, "corrected", bare.read_image()[..., 0] // 200)
    recipe = Recipe.preset("smoke", method="unet", labeled="100%", num_classes=3)
    assert bare.id in {c.id for c in assign_roles(data, recipe, read_decisions(tmp_path / "made")).labeled}
    turn(tmp_path / "data")
    with pytest.raises(ScsamError, match="give the class table its old form"):
        assign_roles(load_dataset(tmp_path / "data"), recipe, read_decisions(tmp_path / "made"))


def test_test_images_that_came_later_are_named(run, tmp_path):
    data = folder(tmp_path / "data")
    assert scsam("evaluate", run[0], "--data", data, "--quiet")[1].count("not there when") == 0
    for kind in ("images", "masks"):
        (data / "test" / kind / "new.png").write_bytes((data / kind / "p00.png").read_bytes())
    for command in ("evaluate", "report"):
        code, said = scsam(command, run[0], "--data", data, "--quiet")
        assert code == 0 and "1 image was not there when the run was trained (test/new)" in said, said


def test_a_table_is_about_the_masks_that_were_written(run, tmp_path):
    (tmp_path / "in").mkdir()
    for n in range(3):
        image, _ = picture(discs=((14, 14, 11, 1), (34, 50, 5 + n, 1)))
        Image.fromarray(image).save(tmp_path / "in" / f"{n}.png")
    code, said = scsam("predict", run[0], tmp_path / "in", "--out", tmp_path / "out", "--csv", "--tidy", "largest")
    assert code == 0, said
    cases, trained = list(load_dataset(tmp_path / "in")), load_run(run[0])
    area = lambda how: {r["id"]: r["area"] for r in look_first(trained, cases, None, how=how)}
    areas = {how: area(how) for how in ("none", "largest")}
    with open(tmp_path / "out" / "masks.csv") as f:
        assert {r["id"]: float(r["area"]) for r in csv.DictReader(f)} == areas["largest"] != areas["none"]
    maps = {c.id: trained.predict(c.image) for c in cases}
    for i, area in areas["largest"].items():
        assert abs((tidy(maps[i], "largest") > 0).mean() - area) < 0.02


def test_a_table_that_somebody_has_changed_stays(run, tmp_path):
    _, data = run
    predict = ("predict", run[0], data / "test", "--out", tmp_path / "out", "--csv", "--quiet")
    table = tmp_path / "out" / "masks.csv"
    assert scsam(*predict)[0] == 0 and scsam(*predict)[0] == 0
    code, said = scsam("predict", run[0], data, "--out", tmp_path / "out", "--csv", "--quiet")
    assert code == 0 and "note: it listed 2 other images before" in said, said
    text = table.read_text()
    table.write_text(text.replace("\n", ",checked\n", 1))
    code, said = scsam(*predict)
    assert code == 2 and "was changed since" in said and "checked" in table.read_text(), said
    assert scsam(*predict, "--overwrite")[0] == 0 and "checked" not in table.read_text()


def test_a_table_knows_its_own_names(run, tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("=a", "+b", "ok"):
        Image.fromarray(picture(discs=((20, 20, 8, 1),))[0]).save(tmp_path / "in" / f"{name}.png")
    predict = ("predict", run[0], tmp_path / "in", "--out", tmp_path / "out", "--csv", "--quiet")
    assert scsam(*predict)[0] == 0 and "before" not in scsam(*predict)[1]
    (tmp_path / "out" / "masks.csv").write_text("Bild;Dice\n" + "x" * 200_000)                       # somebody else's
    code, said = scsam(*predict, "--overwrite")
    assert code == 0 and "before" not in said, said


def test_auto_keeps_masks_that_somebody_has_changed(tmp_path):
    data = load_dataset(folder(tmp_path / "data", bare=3))
    plan = make_plan(data, k=2, preset="smoke", steps=2, methods=("unet",))
    said, out = [], tmp_path / "auto"
    auto(data, plan, out, say=said.append)
    mask = next(p for p in (out / "masks").glob("*.png") if "_overlay" not in p.name)
    Image.fromarray(picture()[1]).save(mask)
    before = mask.read_bytes()
    assert auto(data, plan, out, say=said.append) and mask.read_bytes() == before
    assert any("1 mask in" in s and "changed by a person stay" in s for s in said), said
    (out / "masks.csv").write_text("my own list")
    with pytest.raises(ScsamError, match="changed since"):
        auto(data, plan, out, say=said.append)


PLUGIN = """
from scsam.baselines import UNetOnly
from scsam.method import register

@register('mine')
class Mine(UNetOnly):
    def predict(self, images, embeddings=None, seeds=None):
        return {'unet': %s}
"""


@pytest.mark.parametrize("answer, says", (("1/0", "an error of the plugin"),
                                          ("self.unet(images)", "logits need softmax"),
                                          ("self.unet(images).softmax(1)[:, :1]", "it must be (images, classes"),
                                          ("self.unet(images).softmax(1)*float('nan')", "gave NaN")))
def test_a_method_with_a_mistake_is_named(answer, says, run, tmp_path):
    (tmp_path / "mine.py").write_text(PLUGIN % answer)
    code, said = scsam("train", "--data", run[1], "--preset", "smoke", "--method", "mine", "--plugin",
                       tmp_path / "mine.py", "--labeled", "100%", "--quiet", "--out", tmp_path / "run")
    assert code == 2 and says in said and "fault of scsam" not in said, said


def test_home_is_home(run, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert scsam("predict", run[0], run[1] / "test", "--out=~/masks", "--quiet")[0] == 0
    assert (tmp_path / "home" / "masks").is_dir() and not Path("~").exists()


def test_a_mask_does_not_depend_on_a_name(run, tmp_path):
    assert scsam("train", "--data", run[1], "--preset", "smoke", "--method", "scsam", "--labeled", "100%", "--steps",
                 "2", "--quiet", "--out", tmp_path / "run")[0] == 0
    (tmp_path / "in").mkdir()
    for name in "ab":
        (tmp_path / "in" / f"{name}.png").write_bytes((run[1] / "images" / "p00.png").read_bytes())
    assert scsam("predict", tmp_path / "run", tmp_path / "in", "--branch", "sam", "--out", tmp_path / "out")[0] == 0
    a, b = (np.asarray(Image.open(tmp_path / "out" / f"{name}.png")) for name in "ab")
    assert np.array_equal(a, b)
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["prompts"]                 # SAM was asked points


@pytest.mark.parametrize("method", methods())
def test_every_method_learns_in_bf16_with_a_smaller_sam(method, tmp_path):
    recipe = Recipe.preset("smoke", method=method, steps=1, labeled="4", val_every=1, precision="bf16", image_size=96,
                           sam_size=64)
    history = fit(make_method(recipe), load_dataset("phantom", n=8, test=0), recipe, tmp_path / "run", progress=False)
    assert all(np.isfinite(v) for row in history.val for v in row.values())


def test_voxels_that_were_written_anew_are_read_anew(tmp_path):
    sitk = pytest.importorskip("SimpleITK", reason="needs SimpleITK: pip install 'scsam[medical]'")
    first, second = (np.full((3, 20, 20), v, np.int16) + np.arange(20, dtype=np.int16) * v for v in (1, 3))
    for name in ("v.mhd", "v_segmentation.mhd"):
        sitk.WriteImage(sitk.GetImageFromArray((first > 9).astype(np.int16) if "seg" in name else first),
                        str(tmp_path / name))
    case = load_dataset(tmp_path)[1]
    before, mask = case.read_image(), case.read_mask()
    mask[:] = 0                                                       # of whoever asked, not of the cache
    assert case.read_mask().any()
    header = (tmp_path / "v.mhd").stat()
    (tmp_path / "v.raw").write_bytes(second[:, ::-1, ::-1].copy().tobytes())
    assert (tmp_path / "v.mhd").stat().st_mtime_ns == header.st_mtime_ns
    assert not np.array_equal(case.read_image(), before)


def test_an_incomplete_volume_is_refused_before_anything_is_made(run, tmp_path):
    sitk = pytest.importorskip("SimpleITK", reason="needs SimpleITK: pip install 'scsam[medical]'")
    for name in "ab":
        sitk.WriteImage(sitk.GetImageFromArray(np.random.default_rng(0).integers(0, 99, (4, 32, 32), np.int16)),
                        str(tmp_path / f"{name}.nii.gz"))
    cases = [c for c in load_dataset(tmp_path) if c.id != "b/02" and c.id != "b/2"]
    assert len(cases) == 7
    with pytest.raises(ScsamError, match="of which 3 were given"):
        predict_files(load_run(run[0]), cases, tmp_path / "out")
    assert not list((tmp_path / "out").glob("a*"))


def test_masks_that_a_person_drew_were_learnt_from(tmp_path):
    data = folder(tmp_path / "data", bare=3)
    cases = load_dataset(data)
    bare = [c for c in cases if not c.has_mask][:2]
    made = Decisions(tmp_path / "made", cases.class_names)
    for c in bare:
        made.set(c, "corrected", picture()[1])
    assert scsam("train", "--data", data, *TRAIN, "--val", "0", "--decisions", tmp_path / "made", "--out",
                 tmp_path / "run")[0] == 0
    later = tmp_path / "later"
    for c in bare:
        for kind in ("images", "masks"):
            (later / kind).mkdir(parents=True, exist_ok=True)
        (later / "images" / Path(c.image).name).write_bytes(Path(c.image).read_bytes())
        Image.fromarray(picture()[1]).save(later / "masks" / Path(c.image).name)
    assert scsam("export", tmp_path / "run", "--out", tmp_path / "given", "--graphs", "none")[0] == 0
    for run in ("run", "given"):
        code, said = scsam("predict", tmp_path / run, later, "--out", tmp_path / f"of-{run}")
        assert code == 0 and "2 of these images were learnt from" in said and "Dice" not in said, said
    Path(bare[0].image).unlink()                                       # what is gone does not spoil the rest
    code, said = scsam("train", "--data", data, *TRAIN, "--val", "0", "--decisions", tmp_path / "made", "--out",
                       tmp_path / "fewer")
    assert code == 0 and "1 corrected" in said and "1 decision changes nothing here" in said, said
    (data / "classes.txt").write_text("background\nc1\nc2\nc3")        # nobody was asked for the fourth
    code, said = scsam("train", "--data", data, *TRAIN, "--decisions", tmp_path / "made", "--out", tmp_path / "other")
    assert code == 2 and "would not mean the same" in said, said


def test_predictions_are_not_mixed_with_masks(run, tmp_path):
    data = folder(tmp_path / "data")
    before = sorted(p.name for p in (data / "masks").iterdir())
    code, said = scsam("predict", run[0], data / "test" / "images", "--out", data / "masks")
    assert code == 2 and "masks that are no predictions (p00.png" in said, said
    for alone in ("figure.png", "._p00.png"):                          # nobody's data set
        (tmp_path / "notes").mkdir(exist_ok=True)
        (tmp_path / "notes" / alone).write_bytes(b"")
    assert scsam("predict", run[0], data / "test" / "images", "--out", tmp_path / "notes")[0] == 0
    code, said = scsam("auto", data, "--out", data / "evening", "--preset", "smoke", "--methods", "unet", "--dry-run")
    assert code == 2 and "lies in the data" in said, said
    code, said = scsam("train", "--data", data, *TRAIN, "--out", data / "runs" / "first")
    assert code == 2 and "lies in the data" in said and not (data / "runs").exists(), said
    for out in (data, data / "masks"):
        code, said = scsam("auto", data, "--out", out, "--preset", "smoke", "--methods", "unet", "--steps", "2")
        assert code == 2 and "is not empty" in said, said
    assert sorted(p.name for p in (data / "masks").iterdir()) == before and scsam("data", data)[0] == 0


def test_folds_have_one_clock_and_know_their_own_masks(tmp_path):
    data, out = folder(tmp_path / "data"), tmp_path / "folds"
    for kind in ("images", "masks"):                                   # a part for validation is pooled
        (data / "val" / kind).mkdir(parents=True)
        for n in (0, 1):
            (data / kind / f"p{n:02}.png").rename(data / "val" / kind / f"p{n:02}.png")
    command = ("train", "--data", data, "--preset", "smoke", "--method", "unet", "--steps", "2", "--quiet", "--folds")
    assert scsam(*command, "3", "--max-minutes", "0", "--out", out)[0] == 3
    code, said = scsam("evaluate", out)
    assert code == 2 and "are not finished; repeat their `scsam train` command" in said, said
    code, said = scsam(*command, "4", "--out", out)
    assert code == 2 and "other folds than these 4" in said, said
    code, said = scsam(*command, "3", "--out", out)
    assert code == 0 and "10 masks, each once left out" in said, said
    shutil.copytree(out, tmp_path / "mixed")
    shutil.rmtree(tmp_path / "mixed" / "fold-0")
    three = [*command, "3", "--out", tmp_path / "mixed"]
    three[three.index("--steps") + 1] = "3"
    scsam(*three)
    code, said = scsam("evaluate", tmp_path / "mixed")
    assert code == 2 and "had other settings than" in said, said
    code, said = scsam("predict", out, data / "val", "--out", tmp_path / "val", "--csv")
    assert code == 0 and "2 of these images were learnt from" in said and "scsam evaluate" in said, said
    code, said = scsam("evaluate", out / "fold-0", "--data", data, "--quiet")
    assert "not there when the run was trained" not in said, said


def test_what_belongs_to_a_pair_belongs_to_its_subclasses(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("from scsam.method import register\nfrom scsam.pair import Pair\n"
                    "@register('my-pair')\nclass Mine(Pair): pass\n")
    load_plugin(file)
    one, two = (for_method(Recipe.preset("pair"), name).to_dict() for name in ("scsam-pair", "my-pair"))
    assert {k for k in one if one[k] != two[k]} == {"method"}


def test_auto_takes_a_method_of_ones_own(tmp_path):
    data, file = folder(tmp_path / "data"), tmp_path / "mine.py"
    file.write_text("from scsam.method import register\nfrom scsam.baselines import UNetOnly\n"
                    "@register('my-own')\nclass Mine(UNetOnly): pass\n")
    command = ("auto", data, "--plugin", file, "--methods", "my-own", "--preset", "smoke", "--steps", "2", "--folds",
               "2", "--quiet", "--out", tmp_path / "out")
    code, said = scsam(*command)
    assert code == 0 and (tmp_path / "out" / "report.html").exists(), said
    (data / "classes.txt").write_text("background\nc1\nc2\nc3")
    code, said = scsam(*command)
    assert code == 2 and "was begun with other images, masks, decisions or classes" in said, said


def test_another_threshold_is_other_data(tmp_path):
    data = folder(tmp_path / "data")
    (data / "classes.txt").unlink()
    (data / "classes.json").write_text('{"threshold": 0}')
    assert scsam("train", "--data", data, *TRAIN, "--out", tmp_path / "run")[0] == 0
    (data / "classes.json").write_text('{"threshold": 1}')
    for command in (("evaluate", tmp_path / "run"), ("train", "--data", data, *TRAIN, "--out", tmp_path / "run")):
        code, said = scsam(*command)
        assert code == 2 and "the threshold of the masks is 1 here, and 0 there" in said, said


def test_a_missing_file_of_a_run_is_missing(run, tmp_path):
    shutil.copytree(run[0], tmp_path / "run")
    (tmp_path / "run" / "model.safetensors").unlink()
    code, said = scsam("predict", tmp_path / "run", run[1] / "test", "--out", tmp_path / "masks")
    assert code == 2 and "is not whole: model.safetensors is missing" in said, said


def test_auto_predicts_whole_volumes_though_a_slice_was_decided_about(tmp_path):
    sitk = pytest.importorskip("SimpleITK", reason="needs SimpleITK: pip install 'scsam[medical]'")
    made, data, rng = tmp_path / "made", tmp_path / "data", np.random.default_rng(0)
    for kind in ("images", "masks"):
        (data / kind).mkdir(parents=True)
    for n in range(4):
        mask = np.zeros((3, 32, 32), np.uint8)
        mask[:, 8:18, 8 : 20 + n] = 1
        arrays = {"images": 200 * mask + rng.integers(0, 60, mask.shape, np.int16), "masks": mask}
        for kind in ("images", "masks") if n < 2 else ("images",):
            sitk.WriteImage(sitk.GetImageFromArray(arrays[kind]), str(data / kind / f"v{n}.nii.gz"))
    bare = [c for c in load_dataset(data) if not c.has_mask]
    decisions = Decisions(made)
    decisions.set(bare[0], "rejected")
    decisions.set(bare[3], "corrected", np.ones((32, 32), np.uint8))
    code, said = scsam("auto", data, "--decisions", made, "--out", tmp_path / "out", "--preset", "smoke", "--methods",
                       "unet", "--steps", "2", "--folds", "2", "--quiet")
    assert code == 0, said
    assert {p.name for p in (tmp_path / "out" / "masks").glob("*.nii.gz")} == {"v2_segmentation.nii.gz",
                                                                              "v3_segmentation.nii.gz"}, said
