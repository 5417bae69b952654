"""Situations from public reports: each folder of ../shared/cases makes a small input; here stands what is right for it."""
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
    code, said = scsam("train", "--data", data, "--preset", "smoke", "--method", "unet", "--steps", "2", "--val-every", "1", "--out", run, "--quiet", *more)
    assert code == 0, said
    return run


@pytest.fixture(scope="module")
def any_run(tmp_path_factory):
    "A run to predict with."
    run = tmp_path_factory.mktemp("any") / "run"
    code, said = scsam("train", "--data", "phantom", "--preset", "smoke", "--method", "unet", "--steps", "1", "--val-every", "1", "--out", run, "--quiet")
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
    assert {p.name for p in (data.parent / "out").glob("*") if "overlay" not in p.name and p.name[0] != "."} == {"p0.png", "p1.png", "p2.png", "scan_segmentation.nii.gz"}


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
    masks = [p for p in (data.parent / "out").glob("*.png") if Image.open(p).mode == "P"]
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
