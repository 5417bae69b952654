"""Published data sets in their official form, generated small: opened, checked, trained on, scored and predicted."""
import contextlib
import io
import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scsam.check import check
from scsam.cli import main
from scsam.datasets import load_dataset


def scsam(*args):
    "The exit code of a command, and what it printed."
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        code = main([str(a) for a in args])
    return code or 0, out.getvalue()


def blob(seed, h=40, w=48):
    "A noisy image with a bright ellipse off the centre, and the ellipse."
    r = np.random.default_rng(seed)
    y, x = np.mgrid[:h, :w]
    m = ((y - h * r.uniform(0.3, 0.45)) / (h * 0.2)) ** 2 + ((x - w * r.uniform(0.55, 0.7)) / (w * 0.17)) ** 2 < 1
    return np.repeat((r.normal(70, 12, (h, w)) + 110*m).clip(0, 255).astype(np.uint8)[..., None], 3,
                     -1), m.astype(np.uint8)


class Tree:
    "Writes small images and volumes below a folder."

    def __init__(self, root):
        self.root, self.seed = root, 0

    def path(self, name):
        p = self.root / name
        p.parent.mkdir(parents=True, exist_ok=True)
        return p

    def image(self, name, *masks, value=255, second=None):
        "An image and files with its mask; `second` = value of a small second region."
        self.seed += 1
        a, m = blob(self.seed)
        labels = m * value
        if second is not None:
            labels[30:36, 4:12] = second
            a[30:36, 4:12] = 20
        Image.fromarray(a).save(self.path(name))
        for mask in masks:
            Image.fromarray(labels.astype(np.uint8)).save(self.path(mask))

    def volume(self, name, mask=None, also=(), depth=3, labels=(0, 1), dtype=np.int16, frames=0):
        "A volume, perhaps its mask, and other sequences on the same grid."
        import SimpleITK as sitk

        self.seed += 1
        slices = [blob(1000 * self.seed + i) for i in range(depth)]
        a, m = np.stack([s[0][..., 0] for s in slices]).astype(dtype), np.stack([s[1] for s in slices])

        def put(array, at):
            im = sitk.GetImageFromArray(array, isVector=False)
            if not frames or at != name:
                im.SetSpacing((1.25, 1.25, 5.0))
            sitk.WriteImage(im, str(self.path(at)))

        put(np.stack([a] * frames) if frames else a, name)
        for i, other in enumerate(also):
            put(a * (i + 2), other)
        if mask:
            top = np.asarray(labels)[m].astype(np.uint8)
            for k, v in enumerate(labels[2:]):
                top[:, 30 + 3 * k : 33 + 3 * k, 4:12] = v
            put(top, mask)

    def text(self, name, text):
        self.path(name).write_text(text, encoding="utf-8")


def acdc(t):
    for part, patients in (("training", (1, 2, 3)), ("testing", (101, 102))):
        for p in patients:
            d = f"{part}/patient{p:03d}/patient{p:03d}"
            t.volume(f"{d}_4d.nii.gz", frames=2)
            for frame in (1, 12):
                t.volume(f"{d}_frame{frame:02d}.nii.gz", f"{d}_frame{frame:02d}_gt.nii.gz", labels=(0, 3, 1, 2))
            t.text(f"{part}/patient{p:03d}/Info.cfg", "ED: 1\nES: 12\n")
    t.text("classes.txt", "background\nright ventricle\nmyocardium\nleft ventricle\n")


def promise12(t):
    for part, numbers in (("Part1", (0, 1)), ("Part2", (36, 41)), ("Part3", (42,))):
        for n in numbers:
            t.volume(f"TrainingData_{part}/Case{n:02d}.mhd", f"TrainingData_{part}/Case{n:02d}_segmentation.mhd")
    t.volume("TestData/Case00.mhd")


def busi(t):
    for kind in ("benign", "malignant", "normal"):
        for i in (1, 2, 3):
            t.image(f"{kind}/{kind} ({i}).png", f"{kind}/{kind} ({i})_mask.png")
    t.image("benign/other.png", "benign/benign (2)_mask_1.png")
    (t.root / "benign/other.png").unlink()


def isic(t):
    for part, n in (("Training", 5), ("Validation", 2), ("Test", 2)):
        for i in range(n):
            name = f"ISIC_{len(part):03d}{i:04d}"
            t.image(f"ISIC2018_Task1-2_{part}_Input/{name}.jpg",
                    f"ISIC2018_Task1_{part}_GroundTruth/{name}_segmentation.png")
        t.text(f"ISIC2018_Task1-2_{part}_Input/ATTRIBUTION.txt", "who")
    t.text("ISIC2018_Task3_Training_GroundTruth.csv", "image,MEL,NV\nISIC_0000000,1.0,0.0\n")


def refuge(t):
    for kind, letter in (("Glaucoma", "g"), ("Non-Glaucoma", "n")):
        for i in range(3):
            name = f"{letter}{i:04d}"
            t.image(f"Training400/{kind}/{name}.jpg", f"Annotation-Training400/Disc_Cup_Masks/{kind}/{name}.bmp",
                    value=128, second=255)
    for part, letter in (("Validation", "V"), ("Test", "T")):
        for i in range(2):
            name = f"{letter}{i:04d}"
            t.image(f"REFUGE-{part}400/{name}.jpg", f"REFUGE-{part}400-GT/Disc_Cup_Masks/{name}.bmp", value=128,
                    second=255)
    t.text("classes.json", json.dumps({"background": 0, "disc": 128, "cup": 255}))
    t.path("Annotation-Training400/Fovea_location.xlsx").write_bytes(b"x")


def brats(t):
    for i in range(3):
        d = f"BraTS2021_{i:05d}/BraTS2021_{i:05d}"
        t.volume(f"{d}_flair.nii.gz", f"{d}_seg.nii.gz", [f"{d}_{s}.nii.gz" for s in ("t1", "t1ce", "t2")],
                 labels=(0, 1, 2, 4))
    t.text("classes.json", json.dumps({"background": 0, "necrotic core": 1, "oedema": 2, "enhancing tumour": 4}))


def ade(t):
    for part, n in (("training", 6), ("validation", 2)):
        for i in range(n):
            name = f"ADE_{part[:5]}_{i:08d}"
            t.image(f"images/{part}/{name}.jpg", f"annotations/{part}/{name}.png", value=1, second=2)
    t.text("objectInfo150.txt", "Idx Ratio Train Val Stuff Name\n1 0.1 1 1 1 wall\n")
    t.text("sceneCategories.txt", "ADE_train_00000000 airport\n")
    t.text("classes.txt", "other\nwall\nbuilding\n")


def kvasir(t):
    for i in range(6):
        t.image(f"images/cju{i}z.jpg", f"masks/cju{i}z.jpg")
    t.text("kavsir_bboxes.json", "{}")


def nnunet(t):
    for i in range(5):
        part = "Tr" if i < 4 else "Ts"
        t.volume(f"images{part}/la_{i:03d}_0000.nii.gz", f"labels{part}/la_{i:03d}.nii.gz")
    t.text(
        "dataset.json",
        json.dumps({
            "channel_names": {"0": "MRI"}, "labels": {"background": 0, "atrium": 1}, "numTraining": 4,
            "file_ending": ".nii.gz"}))


# layout: (writer, kind, images or volumes by role, patients by role, units that are scored and their test set)
OFFICIAL = {
    "acdc": (acdc, "volumes", {"train": 6, "test:test": 4}, {"train": 3, "test:test": 2}, ("test", 4)),
    "promise12": (promise12, "promise12", {"train": 2, "val": 1,
                                           "test:PROMISE12": 2}, {"train": 2, "val": 1, "test:PROMISE12": 2},
                  ("PROMISE12", 2)), "busi": (busi, "folder", {"train": 9}, {"train": 9}, None),
    "isic": (isic, "folder", {"train": 5, "val": 2, "test:test": 2}, {"train": 5, "val": 2, "test:test": 2},
             ("test", 2)), "refuge": (refuge, "folder", {"train": 6, "val": 2,
                                                         "test:test": 2}, {"train": 6, "val": 2, "test:test": 2},
                                      ("test", 2)), "brats": (brats, "volumes", {"train": 12}, {"train": 3}, None),
    "ade": (ade, "folder", {"train": 6, "val": 2}, {"train": 6, "val": 2},
            None), "kvasir": (kvasir, "folder", {"train": 6}, {"train": 6}, None),
    "nnunet": (nnunet, "volumes", {"train": 4, "test:test": 1}, {"train": 4, "test:test": 1}, ("test", 1)), }


@pytest.mark.parametrize("name", OFFICIAL)
def test_official(name, tmp_path):
    write, kind, units, patients, scored = OFFICIAL[name]
    root, run, out = tmp_path / name, tmp_path / "run", tmp_path / "out"
    write(Tree(root))
    code, said = scsam("data", root)
    assert code == 0, said
    data = load_dataset(root)
    assert all(c.has_mask for c in data)
    assert dict(Counter(r for r, _ in {(c.role, c.image) for c in data})) == units
    assert dict(Counter(r for r, _ in {(c.role, c.patient) for c in data})) == patients
    unread = {p for p in root.rglob("*") if p.is_file()} - {
        p for c in data for p in (c.image, c.mask, *getattr(c.reader, "others", ()))} - {*data.left}
    assert {p.suffix
            for p in unread} <= {".raw"} or {p.name for p in unread} <= {"classes.txt", "classes.json", "dataset.json"}
    report = check(root)
    assert not [f for f in report.findings if f.level == "error"], report.text()
    assert str(len({c.image for c in data})) in re.search(r"read \d+ files: (\d+) of images", report.text())[1]
    used = max(1, len({c.patient for c in data if c.role == "train"}) - 1)
    code, said = scsam("train", "--data", root, "--preset", "smoke", "--method", "unet", "--steps", 2, "--val-every", 1,
                       "--labeled", min(2, used), "--out", run, "--quiet")
    assert code == 0, said
    code, said = scsam("evaluate", run, "--quiet")
    assert code == 0, said
    scores = json.loads((run / "record.json").read_text())["scores"]
    if scored:
        assert len(scores[scored[0]]["ids"]) == scored[1]
    some = next(c.image for c in data if c.role != "train" or c is data[-1])
    code, said = scsam("predict", run, some, "--out", out, "--quiet")
    assert code == 0, said
    masks = [p for p in out.iterdir() if "_overlay" not in p.name and p.name[0] != "." and p.suffix != ".raw"]
    assert len(masks) == 1
    if kind != "folder":
        from scsam.volumes import read_volume

        assert read_volume(masks[0]).geometry()[:2] == read_volume(some).geometry()[:2]
    else:
        assert Image.open(masks[0]).size == (48, 40)


# names of images, each with its mask: what they are read as: role, source, patients in all
PAIRS = {
    "train/unlabeled": (["train/labeled/image/{i}.png", "train/labeled/mask/{i}.png", "train/unlabeled/image/u{i}.png"],
                        {"train": 8}, {""}, 8),
    "container called like masks": (["Lung Segmentation/CXR_png/c{i}.png", "Lung Segmentation/masks/c{i}_mask.png"],
                                    {"train": 4}, {""}, 4),
    "suffix of one reader": (["images/im000{i}.png", "labels/im000{i}.ah.png"], {"train": 4}, {""}, 4),
    "letter before the number": (["img/{i}.png", "Ground Truth/p{i}.png"], {"train": 4}, {""}, 4),
    "other words around the number": (["images/bus_000{i}-x.png", "masks/mask_000{i}-x.png"], {"train": 4}, {""}, 4),
    "called by what they are": (["Training Set/AB{i}CD/lgemri.png", "Training Set/AB{i}CD/laendo.png"], {"train": 4},
                                {""}, 4),
    "frames of videos": (["TrainDataset/Frame/case{i}/a.png", "TrainDataset/GT/case{i}/a.png"], {"train": 4}, {""}, 4),
    "a folder more": (["images/i{i}.png", "masks/0/i{i}.png"], {"train": 4}, {""}, 4),
    "splits in the middle of names": (["img/{i}_train_0_.png", "masks/{i}_train_0_.png", "img/{i}_test_0_.png",
                                       "masks/{i}_test_0_.png"], {"train": 4, "test:test": 4}, {""}, 8),
    "sets with numbers": (["ROSE-1/train/img/{i}.png", "ROSE-1/train/gt/{i}.png", "ROSE-1/test/img/t{i}.png",
                           "ROSE-1/test/gt/t{i}.png", "ROSE-2/train/img/{i}.png", "ROSE-2/train/gt/{i}.png"],
                          {"train": 8, "test:test": 4}, {"ROSE-1", "ROSE-2"}, 12),
    "sets beside sets": (["CVC-300/images/{i}.png", "CVC-300/masks/{i}.png", "Kvasir/images/{i}.png",
                          "Kvasir/masks/{i}.png"], {"train": 8}, {"CVC-300", "Kvasir"}, 8),
    "hospitals with cases": (["1_A/images/Case0{i}.png", "1_A/masks/Case0{i}.png", "2_B/images/Case1{i}.png",
                              "2_B/masks/Case1{i}.png"], {"train": 8}, {"1_A", "2_B"}, 8),
    "people in hospitals": (["R001/sub-a{i}/x.png", "R001/sub-a{i}/x_mask.png", "R002/sub-b{i}/x.png",
                             "R002/sub-b{i}/x_mask.png"], {"train": 8}, {"R001", "R002"}, 8), }


@pytest.mark.parametrize("name", PAIRS)
def test_trees(name, tmp_path):
    files, roles, sources, patients = PAIRS[name]
    t = Tree(tmp_path)
    for i in range(4):
        images = [f for f in files if not re.search("(?i)mask|label[^e]|gt/|truth|laendo", f)]
        for f in images:
            masks = [m.format(i=i) for m in files[files.index(f) + 1:][:1] if m not in images]
            t.image(f.format(i=i), *masks)
    data = load_dataset(tmp_path)
    assert Counter(c.role for c in data) == roles and {c.source for c in data} == sources
    assert len({c.patient for c in data}) == patients
    number = lambda p: re.sub(r"\D+", " ", p.stem).split()
    for c in data:
        assert c.has_mask != ("unlabeled" in str(c.image.relative_to(tmp_path)))
        assert not c.has_mask or number(c.image) == number(c.mask)
    assert check(tmp_path).exit_code < 2


def test_masks_that_are_no_drawings(tmp_path):
    "Two readers, outlines and fields of view are told from drawings; several lesions are not."
    from scipy.ndimage import binary_erosion
    y, x = np.mgrid[:40, :48]
    view = (y - 20) ** 2 + (x - 24) ** 2 < 300
    lesion = np.roll(view, 12, 1) & (x > 30) & (y < 20)
    kinds = {"readers": lambda m: [m, np.roll(m, 1, 1)], "outline": lambda m: [m & ~binary_erosion(m)],
             "template": lambda m: [view], None: lambda m: [m & (x < 30), lesion & ~m]}
    for kind, masks in kinds.items():
        t = Tree(tmp_path / str(kind))
        for i in range(6):
            a, m = blob(i)
            Image.fromarray(a).save(t.path(f"images/{i}.png"))
            for k, mask in enumerate(masks(m > 0), 1):
                Image.fromarray(mask.astype(np.uint8) * 255).save(t.path(f"masks/{i}_mask_{k}.png"))
        kinds_found = {f.kind for f in check(t.root).findings} & {"readers", "outline", "template"}
        assert kinds_found == ({kind} if kind else set()), kind
        code, said = scsam("train", "--data", t.root, "--preset", "smoke", "--method", "unet", "--steps", 2, "--out",
                           tmp_path / f"run {kind}", "--quiet")
        assert code == (2 if kind == "readers" else 0), said
        assert kind is None or {"readers": "cover each other", "outline": "thin outlines",
                                "template": "field of view"}[kind] in said, said


def random_table(r, kind):
    "A class table: names, and a value or a colour for each."
    names = ["background", *[f"class {i}" for i in range(1, int(r.integers(2, 6)))]]
    if kind == "colours":
        colours = {tuple(int(v) for v in c) for c in r.integers(0, 256, (len(names) + 9, 3))} - {(0, 0, 0)}
        return dict(zip(names, [[0, 0, 0], *map(list, sorted(colours, key=lambda c: c[1]))]))
    top = 256 if kind == "bytes" else 3000
    return dict(zip(names, (int(v) for v in r.permutation(top)[:len(names)])))


@pytest.mark.parametrize("seed, kind", [(0, "bytes"), (1, "wide"), (2, "colours")])
def test_class_tables(seed, kind, tmp_path):
    "A random class table comes back from train and predict: the masks have the data set's own values."
    from scsam.evaluate import predict_cases, save_labels
    from scsam.learner import load_run
    from scsam.pixels import read_labels

    r = np.random.default_rng(seed)
    table, root, run = random_table(r, kind), tmp_path / "set", tmp_path / "run"
    values = [tuple(v) if isinstance(v, list) else v for v in table.values()]
    lookup = np.array(values, np.uint8 if kind != "wide" else np.uint16)
    t, truth = Tree(root), {}
    for i in range(5):
        t.image(f"images/{i}.png")
        truth[i] = np.kron(r.integers(0, len(values), (5, 6)), np.ones((8, 8), int)).astype(np.uint8)
        Image.fromarray(lookup[truth[i]]).save(t.path(f"masks/{i}.png"))
    t.text("classes.json", json.dumps(table))
    assert all((c.read_mask() == truth[int(c.id)]).all() for c in load_dataset(root))
    for labels in truth.values():  # every class, whatever a network predicts
        save_labels(labels, tmp_path / "one.png", tuple(values))
        assert (read_labels(tmp_path / "one.png", tuple(values)) == labels).all()
    code, said = scsam("train", "--data", root, "--preset", "smoke", "--method", "unet", "--steps", 2, "--val-every", 1,
                       "--out", run, "--quiet")
    assert code == 0, said
    code, said = scsam("predict", run, root / "images", "--out", tmp_path / "out", "--quiet")
    assert code == 0, said
    trained = load_run(run)
    for case, maps in predict_cases(trained.method, list(load_dataset(root / "images")), trained.recipe):
        made = read_labels(tmp_path / "out" / f"{case.id}.png", tuple(values))
        assert (made == maps[trained.training["selected"]["branch"]]).all()
        stored = Image.open(tmp_path / "out" / f"{case.id}.png")
        pixels = np.asarray(stored.convert("RGB") if kind == "colours" else stored)
        seen = pixels.reshape(-1, *pixels.shape[2:]).tolist()
        assert {tuple(v) if kind == "colours" else v for v in seen} <= {*values}
