"""Both tables of the paper from download to page, on stand-ins and with steps cut to a few.

By default with the rows of the paper's tables and ours; `python tests/test_rehearsal.py` takes all methods."""
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import torch

from stand_ins import pranet, promise12, vit_b
from scsam.cli import main
from scsam.experiment import MAIN, PAIR_ROWS, PAPER_ROWS, ROWS, run_experiment
from scsam.records import find_records

pytest.importorskip("SimpleITK")
ROOT = Path(__file__).resolve().parents[1]
SHORT = dict(steps=2, val_every=2, image_size=32, batch_labeled=2, batch_unlabeled=2, unet_weights="")
TINY = {**SHORT, "sam": "tiny", "weights": "random"}
TRAINED = ROWS if os.environ.get("SCSAM_REHEARSE") == "all" else MAIN + PAPER_ROWS + PAIR_ROWS
QUIET = dict(progress=False, say=lambda *_: None)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    "A machine with the downloads, and with nothing else: its own data folder, cache, runs and results."
    at = tmp_path_factory.mktemp("rehearsal")
    kept = {k: os.environ.get(k) for k in ("SCSAM_DATA", "SCSAM_CACHE")}
    os.environ.update(SCSAM_DATA=str(at / "data"), SCSAM_CACHE=str(at / "cache"))
    (at / "zips").mkdir()
    promise12(at / "zips")
    pranet(at / "zips")
    vit_b(at / "zips" / "sam_vit_b_01ec64.pth")
    yield at
    for k, v in kept.items():
        os.environ.pop(k) if v is None else os.environ.update({k: v})


def scsam(capsys, *words):
    "A command line of this process; returns (exit code, stdout, stderr)."
    code = main([str(w) for w in words])
    return code, *capsys.readouterr()


def plan(capsys):
    return scsam(capsys, "experiment", "polyp,prostate,prostate-slices", "--mode", "full", "--plan")


def rehearse(place, name, rows, changes, seeds=(0,)):
    runs = [f"{row}-{budget}-s{s}" for s in seeds for row, budget in rows]
    where = dict(runs=place / "runs", results=place / "results")
    return run_experiment(name, "full", only=runs, changes=changes, **where, **QUIET)


def test_a_bare_machine_is_told_everything(place, capsys):
    code, out, _ = plan(capsys)
    assert code == 0
    missing = out.split("missing:")[-1]
    gpu = [] if torch.cuda.is_available() else ["a GPU that torch can use"]
    for word in ("PROMISE12 (", "the polyp benchmark (", "--fetch vit_b", "--fetch medsam", *gpu):
        assert word in missing, word
    code, _, err = scsam(capsys, "experiment", "polyp", "--mode", "full", "--runs", place / "runs")
    assert code == 2 and "nothing was started" in err and "--fetch vit_b" in err and not (place / "runs").exists()


def test_a_partial_or_damaged_download_names_what_is_missing(place, capsys):
    zips, cut = place / "zips", place / "cut"
    cut.mkdir()
    parts = [zips / f"TrainingData_Part{k}.zip" for k in (1, 3)]
    code, _, err = scsam(capsys, "data", "import", "promise12", *parts, "--out", cut / "p")
    assert code == 2 and "TrainingData_Part2.zip" in err and "Case17–33" in err
    (cut / "TestDataset.zip").write_bytes((zips / "TestDataset.zip").read_bytes()[:-5000])
    code, _, err = scsam(capsys, "data", "import", "polyp", cut / "TestDataset.zip", "--out", cut / "q")
    assert code == 2 and "was cut off" in err
    raw = bytearray((zips / "TrainDataset.zip").read_bytes())
    with zipfile.ZipFile(zips / "TrainDataset.zip") as z:
        at = next(i for i in z.infolist() if i.filename.endswith(".png")).header_offset
    raw[at + 120] ^= 255
    (cut / "TrainDataset.zip").write_bytes(raw)
    both = cut / "TrainDataset.zip", zips / "TestDataset.zip"
    code, _, err = scsam(capsys, "data", "import", "polyp", *both, "--out", cut / "q")
    assert code == 2 and "is damaged at TrainDataset/" in err
    assert not [p for p in cut.iterdir() if p.suffix != ".zip"], "nothing half-made stays"


def test_from_zips_to_data(place, capsys):
    zips, data = place / "zips", place / "data"
    parts = [zips / f"TrainingData_Part{k}.zip" for k in (1, 2, 3)]
    for words in (["promise12", *parts, zips / "TestData.zip", "--out", data / "promise12"],
                  ["polyp", zips / "TrainDataset.zip", zips / "TestDataset.zip", "--out", data / "polyp"]):
        code, out, _ = scsam(capsys, "data", "import", *words)
        assert code == 0 and "those of the published data set" in out, out
    code, out, _ = scsam(capsys, "data", "compare", data / "promise12", "promise12-5")
    assert code == 0, out
    missing = plan(capsys)[1].split("missing:")[-1]
    assert "PROMISE12" not in missing and "polyp benchmark" not in missing


def test_every_row_on_volumes(place):
    rows = [(row, 2) for row in TRAINED]
    records = rehearse(place, "prostate", rows, TINY)
    assert len(records) == len(TRAINED)
    for r in records.values():
        assert {s: (c["mode"], len(c["ids"])) for s, c in r["scores"].items()} == {
            "PROMISE12": ("volumes", 10), "PROMISE12 slices": ("slices", 30)}
        assert {"dice", "iou", "hd95", "assd"} <= set(r["scores"]["PROMISE12"][r["selected"]["branch"]])
    (by_patient, by_slice) = records["scsam-2-s0"], rehearse(place, "prostate-slices", [("scsam", 5)], TINY)
    assert by_patient["budget"]["labeled"] == 6               # two patients of three slices
    assert by_slice["scsam-5-s0"]["budget"]["labeled"] == 5   # 5 % of 105 slices


def test_rows_on_images(place):
    rows = [(row, 5) for row in ("unet", "scsam", "pair")]
    records = rehearse(place, "polyp", rows, TINY)
    rehearse(place, "polyp", [("unet", 5)], TINY, seeds=(1,))
    for r in records.values():
        assert {s: len(c["ids"]) for s, c in r["scores"].items()} == {
            "CVC-300": 60, "CVC-ClinicDB": 62, "CVC-ColonDB": 380, "ETIS-LaribPolypDB": 196, "Kvasir": 100}


def test_the_official_file_of_vit_b_is_loaded(place):
    weights = str(place / "zips" / "sam_vit_b_01ec64.pth")
    done = rehearse(place, "prostate", [("scsam", 4)], {**SHORT, "steps": 1, "weights": weights})["scsam-4-s0"]
    assert done["weights"]["name"] == "vit_b" and done["steps"] == 1


def wait_for(condition, process, what, seconds=240):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited for {what}"
        assert process.poll() is None, f"ended before {what}: {process.stderr.read().decode()[-2000:]}"
        time.sleep(0.05)


def test_a_task_that_is_taken_away_requeues_itself_and_resumes(place):
    commands = place / "bin"
    commands.mkdir()
    code = "import sys; from scsam.cli import main; raise SystemExit(main())"
    (commands / "scsam").write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{code}" "$@"\n')
    (commands / "scontrol").write_text('#!/bin/sh\necho "$@" > requeued\n')
    for f in commands.iterdir():
        f.chmod(0o755)
    changes = {**TINY, "steps": 200, "val_every": 0}
    words = [f"--set={k}={v}" for k, v in changes.items()]
    env = {**os.environ, "PATH": f"{commands}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "SLURM_JOB_ID": "7",
           "SLURM_ARRAY_TASK_ID": "2"}
    script, data = ROOT / "nbs" / "experiments" / "queue.slurm", place / "data" / "promise12"
    task = ["bash", str(script), "prostate", "full", str(data)]

    def start():
        return subprocess.Popen([*task, *words], cwd=place, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    out = place / "runs" / "prostate-full-rehearsal" / "sam-2-s0"
    shutil.rmtree(out, ignore_errors=True)
    (place / "results" / "prostate-full-rehearsal" / "sam-2-s0.json").unlink(missing_ok=True)
    first = start()
    wait_for((out / "recipe.json").exists, first, "the run's folder")
    time.sleep(0.5)
    first.send_signal(signal.SIGTERM)
    said = first.communicate(timeout=900)[1].decode()
    assert (place / "requeued").read_text().split() == ["requeue", "7"], said
    assert "interrupted: stopped at step" in said and list((out / "checkpoints").iterdir())
    second = start()
    said = second.communicate(timeout=900)[1].decode()
    assert second.returncode == 0, said
    record = json.loads((place / "results" / "prostate-full-rehearsal" / "sam-2-s0.json").read_text())
    assert record["steps"] == 200


def page(place):
    "The page of all tables, made of the rehearsal's records in a project of its own."
    import nbformat
    from nbclient import NotebookClient

    to = place / "project" / "nbs" / "experiments"
    to.mkdir(parents=True)
    shutil.copy(ROOT / "settings.ini", place / "project")
    shutil.copytree(ROOT / "results" / "reported", place / "project" / "results" / "reported")
    shutil.copytree(place / "results", place / "project" / "results", dirs_exist_ok=True)
    nb = nbformat.read(ROOT / "nbs" / "experiments" / "tables.ipynb", 4)
    end = next(i for i, c in enumerate(nb.cells) if c.source.startswith("## What cannot hide"))
    nb.cells = nb.cells[:end]  # what follows tries changes on records with several seeds
    NotebookClient(nb, timeout=600, resources={"metadata": {"path": str(to)}}).execute()
    return shown(nb) + "".join(own_page(place, name, to) for name in ("polyp", "prostate"))


def shown(nb):
    outputs = [o for c in nb.cells for o in c.get("outputs", [])]
    return "\n".join(o["data"].get("text/markdown", "") for o in outputs if "data" in o)


def own_page(place, name, to):
    "What the experiment's own notebook shows of the paper's setting, with these records in the place of real ones."
    import nbformat
    from nbclient import NotebookClient

    shutil.copytree(place / "results" / f"{name}-full-rehearsal", to.parents[1] / "results" / f"{name}-full")
    nb = nbformat.read(ROOT / "nbs" / "experiments" / f"{name}.ipynb", 4)
    cells = [c for c in nb.cells if c.cell_type == "code"]
    first = next(i for i, c in enumerate(cells) if "root" in c.source and "project_root()" in c.source)
    nb.cells = [*cells[: first + 1], next(c for c in cells if c.source.startswith("full = find_records("))]
    NotebookClient(nb, timeout=600, resources={"metadata": {"path": str(to)}}).execute()
    return f"\n## own page of {name}\n" + shown(nb)


def test_the_tables_fill_and_say_what_they_are(place, capsys):
    code, out, _ = scsam(capsys, "table", place / "results" / "polyp-full-rehearsal")
    assert code == 0 and "ETIS-LaribPolypDB" in out
    shown, *own = page(place).split("## own page of ")
    assert "reported elsewhere" in shown
    for text, number in zip(own, ("56.9", "83.6")):
        assert "scsam" in text and number in text and "reported elsewhere" in text, text[:2000]
    assert len(own) == 2
    for name in ("polyp-full-rehearsal", "prostate-full-rehearsal", "prostate-slices-full-rehearsal"):
        found = re.search(rf"### {name}\n\n(.*)", shown)
        assert found and found[1].startswith("**A rehearsal"), name
    polyp = shown.split("### polyp-full-rehearsal")[1].split("###")[0]
    assert "56.9" in polyp, "the paper's number for ETIS stands beside ours"
    assert len(find_records(place / "results" / "prostate-full-rehearsal")) == len(TRAINED) + 1


if __name__ == "__main__":
    os.environ["SCSAM_REHEARSE"] = "all"
    raise SystemExit(pytest.main([__file__, "-s", "-v", "--durations=0"]))
