"""What only whole processes show: runs that are killed, interrupted, starved of disk, and spread over two processes.

`python tests/test_process.py` kills one training ten times and prints what happened."""
import dataclasses
import hashlib
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from scsam.config import Recipe, ScsamError
from scsam.files import read_json
from scsam.data import Dataset
from scsam.datasets import load_dataset
from scsam.checkpoint import load_tensors
from scsam.learner import fit, make_method

CLI = "from scsam.cli import main; raise SystemExit(main())"
RECIPE = Recipe.preset("smoke", labeled="4", steps=30, val_every=2, weight_ema=0.9, image_size=32)
EXTRAS = dict(progress=False, snapshots=4)
fork = multiprocessing.get_context("fork")  # a child starts at once: torch is imported already


class InMemory:
    "Pixels that are drawn once, not in every child."

    has_mask = True

    def __init__(self, c):
        self.pixels, self.labels, self.hashes = c.read_image(), c.read_mask(), c.sha256()

    def image(self, case):
        return self.pixels

    def mask(self, case):
        return self.labels

    def sha256(self, case):
        return self.hashes


def phantom():
    drawn = load_dataset("phantom", n=24, test=2, source="colour")
    return Dataset(drawn.name, [dataclasses.replace(c, reader=InMemory(c)) for c in drawn], drawn.class_names)


@pytest.fixture(scope="module")
def data():
    return phantom()


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    "A run that nothing happened to, and how long it took in all and until its first checkpoint."
    return undisturbed(data, tmp_path_factory.mktemp("whole") / "run")


def train(data, out, recipe=RECIPE, said=None):
    if said:
        sys.stdout = sys.stderr = open(said, "w", buffering=1)
    try:
        fit(make_method(recipe), data, recipe, out, **EXTRAS)
    except ScsamError as e:
        print(e)
        os._exit(2)
    os._exit(0 if (out / "training.json").exists() else 3)


def child(*args, **kw):
    p = fork.Process(target=train, args=args, kwargs=kw)
    p.start()
    return p


def wait_until(true, p, seconds=120):
    until = time.monotonic() + seconds
    while not true() and p.is_alive() and time.monotonic() < until:
        time.sleep(0.005)


def checkpoints(run):
    return sorted(p.name for p in (run / "checkpoints").glob("step-*.safetensors"))


def undisturbed(data, run):
    start = time.monotonic()
    p = child(data, run)
    wait_until(lambda: checkpoints(run), p)
    first = time.monotonic() - start
    p.join()
    return run, time.monotonic() - start, first


def state(run):
    "Everything that a run leaves behind and that its length on the clock does not change."
    files = {
        p.relative_to(run).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in run.rglob("*")
        if p.suffix in (".safetensors", ".npy")}
    points = {p.relative_to(run).as_posix(): {k: v.tolist() for k, v in np.load(p).items()} for p in run.rglob("*.npz")}
    return files, points, read_json(run / "history.json"), read_json(run / "training.json")["selected"]


def ten_kills(data, whole, run, kills=10, seed=0):
    "Kill one training at random moments and let it finish; a line of report for each."
    rng, (_, seconds, first) = random.Random(seed), whole
    for i in range(kills):
        moment = rng.uniform(0, first + (seconds - first) / 8)
        p = child(data, run)
        p.join(moment)
        alive = p.is_alive()
        p.kill()
        p.join()
        left = [x.relative_to(run).as_posix() for x in run.rglob(".*.tmp")] if run.exists() else []
        said = "killed" if alive else "TOO LATE"
        yield f"kill {i + 1:2}: after {moment:.2f} s, {said}; checkpoints {checkpoints(run)}; half-written {left}"
    p = child(data, run)
    p.join()
    yield f"last start: exit code {p.exitcode}"


def test_killed_ten_times_equals_never_killed(data, whole, tmp_path):
    report = list(ten_kills(data, whole, tmp_path / "run"))
    print("\n".join(report))
    assert sum("killed" in line for line in report) == 10
    assert state(tmp_path / "run") == state(whole[0])
    assert not [p for p in (tmp_path / "run").rglob("*") if p.name.startswith(".")]


def test_a_full_disk_ends_in_one_line_and_can_be_resumed(data, whole, tmp_path):
    run, said = tmp_path / "run", tmp_path / "said"
    p = child(data, run, said=said)
    wait_until(lambda: "step-0000006.safetensors" in checkpoints(run), p)
    resource.prlimit(p.pid, resource.RLIMIT_FSIZE, (20_000, 20_000))  # from now on no file may grow beyond this
    p.join()
    text = said.read_text()
    assert p.exitcode == 2 and "cannot write" in text and "free some room" in text and "Traceback" not in text, text
    assert not list(run.rglob(".*.tmp"))
    for name in checkpoints(run):
        load_tensors(run / "checkpoints" / name)  # whole
    p = child(data, run)
    p.join()
    assert p.exitcode == 0 and state(run) == state(whole[0])


def test_one_process_per_run_directory(data, tmp_path):
    run = tmp_path / "run"
    p = child(data, run)
    wait_until(lambda: checkpoints(run), p)
    with pytest.raises(ScsamError, match="another process is training"):
        fit(make_method(RECIPE), data, RECIPE, run, progress=False)
    p.kill()  # the lock dies with it
    p.join()
    fit(make_method(RECIPE), data, RECIPE, run, progress=False, max_minutes=0)
    assert checkpoints(run)


def test_told_to_terminate_stops_at_a_checkpoint(data, tmp_path):
    run, said = tmp_path / "run", tmp_path / "said"
    p = child(data, run, said=said)
    wait_until(lambda: checkpoints(run), p)
    p.terminate()
    p.join()
    assert p.exitcode == 3 and "the same command resumes it" in said.read_text()
    assert checkpoints(run)


def test_a_file_that_vanishes(tmp_path):
    "Before it is read: an error that names it. Later: the run goes on, cannot be taken up without it, and can with it."
    for c in load_dataset("phantom", n=16, test=2, source="colour"):
        for kind, pixels in (("images", c.read_image()), ("masks", c.read_mask())):
            path = tmp_path/"data"/("test"
                                    if c.role.startswith("test") else "train")/kind/f"{c.id.replace('/', '-')}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    data, recipe = load_dataset(tmp_path / "data"), RECIPE.replace(steps=6)
    victim = data.where(role="train")[3].image
    victim.rename(tmp_path / "kept.png")
    with pytest.raises(ScsamError, match=victim.name):
        fit(make_method(recipe), data, recipe, tmp_path / "never", progress=False)
    assert not (tmp_path / "never").exists()
    shutil.copy(tmp_path / "kept.png", victim)

    method = make_method(recipe)
    losses = method.losses

    def vanish(batch, step):
        if step == 1:
            victim.unlink()
        if step == 3:
            signal.raise_signal(signal.SIGINT)
        return losses(batch, step)

    method.losses = vanish
    fit(method, data, recipe, tmp_path / "run", progress=False)  # its pixels are in memory
    assert checkpoints(tmp_path / "run")[-1] == "step-0000004.safetensors"
    for again in (lambda: data, lambda: load_dataset(tmp_path / "data")):
        with pytest.raises(ScsamError, match=victim.name):
            fit(make_method(recipe), again(), recipe, tmp_path / "run", progress=False)
    shutil.copy(tmp_path / "kept.png", victim)
    fit(make_method(recipe), load_dataset(tmp_path / "data"), recipe, tmp_path / "run", progress=False)
    assert (tmp_path / "run" / "training.json").exists()


TWO = '''
import json, os, signal, sys
from pathlib import Path
import torch
from torch import nn
from scsam.config import Recipe
from scsam.datasets import load_dataset
from scsam.learner import fit, make_method
from scsam.method import Method

class Plain(Method):
    "No batch norm, and a loss that is a mean over images."
    branches = ("unet",)
    def __init__(self, recipe, log, stop):
        super().__init__(recipe)
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.GELU(), nn.Conv2d(4, 2, 3, padding=1))
        self.log, self.stop = log, stop
    def losses(self, batch, step):
        if step == self.stop: signal.raise_signal(signal.SIGINT)
        n, z = batch.n_labeled, self.net(batch.images)
        pixels = batch.images.sum((1, 2, 3)).tolist()
        self.log.append({"step": step, "labeled": batch.ids[:n], "unlabeled": batch.ids[n:],
                         "pixels": dict(zip(batch.ids, pixels)), "noise": torch.rand(()).item()})
        right = nn.functional.cross_entropy(z[:n], batch.masks[:n])
        calm = (z[n:].softmax(1)[:, 1] - batch.images[n:].mean(1)).pow(2).mean()
        return {"loss": right + calm, "right": right.detach(), "calm": calm.detach()}
    def predict(self, images, embeddings=None, seeds=None): return {"unet": self.net(images).softmax(1)}
    def optimizers(self):
        o = torch.optim.SGD(self.parameters(), .1, momentum=.9)
        o.register_step_pre_hook(lambda *_: self.log[-1].update(grads=self.flat(lambda p: p.grad)))
        return [o]
    def flat(self, of): return [v for p in self.parameters() for v in of(p).flatten().tolist()]

def run(out, stop=None):
    recipe = Recipe.preset("smoke", labeled="6", steps=6, val_every=3, batch_labeled=4, batch_unlabeled=4,
                           augment="flips", accumulate=1)
    method, log = Plain(recipe, [], stop), []
    history = fit(method, load_dataset("phantom", n=30, test=2, source="colour"), recipe, out, progress=False)
    return {"log": method.log, "weights": method.flat(lambda p: p), "train": history.train}

if __name__ == "__main__":
    out, rank = Path(sys.argv[1]), os.environ["RANK"]
    log = run(out/"run", 2 if sys.argv[2] == "stop" and rank == "1" else None)       # Ctrl-C reaches one of them only
    if sys.argv[2] == "go":                       # the method itself, with all that a run may have
        r = Recipe.preset("smoke", steps=4, val_every=2, weight_ema=.9, accumulate=2)
        m = make_method(r)
        fit(m, load_dataset("phantom", n=30, test=2, source="colour"), r, out/"scsam", progress=False, snapshots=2)
        log["scsam"] = {k: v.double().sum().item() for k, v in m.named_parameters() if v.requires_grad}
        odd = r.replace(batch_labeled=3)
        try: fit(make_method(odd), load_dataset("phantom", n=30, test=2, source="colour"), odd, out/"odd")
        except ValueError as e: log["odd"] = str(e)
    (out/f"{sys.argv[2]}-{rank}.json").write_text(json.dumps(log))
'''


def test_two_processes_share_each_batch(tmp_path):
    script = tmp_path / "two.py"
    script.write_text(TWO)
    logs = {}
    for word in ("stop", "go"):
        command = [
            sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines",
            "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0",
            str(script),
            str(tmp_path), word]
        done = subprocess.run(command, capture_output=True, text=True, timeout=400,
                              env={**os.environ, "OMP_NUM_THREADS": "1"})
        assert done.returncode == 0, done.stderr
        logs[word] = [json.loads((tmp_path / f"{word}-{i}.json").read_text()) for i in (0, 1)]
        if word == "stop":
            assert done.stderr.count("stopped at step 3 of 6") == 1  # one of them says so
            assert checkpoints(tmp_path / "run") == ["step-0000003.safetensors"]
    namespace = {"__name__": "two"}
    exec(compile(TWO, "two.py", "exec"), namespace)
    alone = namespace["run"](tmp_path / "alone")
    for a, b, one in zip(*(logs["stop"][i]["log"] + logs["go"][i]["log"] for i in (0, 1)), alone["log"]):
        assert (a["step"], b["step"]) == (one["step"],) * 2
        # together the same batch
        assert a["labeled"] + b["labeled"] == one["labeled"] and a["unlabeled"] + b["unlabeled"] == one["unlabeled"]
        assert len(a["labeled"]) == len(b["labeled"]) == 2
        assert {**a["pixels"], **b["pixels"]} == pytest.approx(one["pixels"])  # and the same views of it
        assert a["grads"] == b["grads"]
        # sums in another order, in single precision
        assert a["grads"] == pytest.approx(one["grads"], rel=1e-5, abs=1e-6)
        assert max(map(abs, a["grads"])) > 1e-3
        assert a["noise"] == one["noise"] != b["noise"]  # dropout and prompts: each its own
    assert len(alone["log"]) == 6
    first, second = logs["go"]
    assert first["weights"] == second["weights"] and first["weights"] == pytest.approx(alone["weights"], abs=1e-5)
    assert [r["loss"] for r in first["train"]] == pytest.approx([r["loss"] for r in alone["train"]], abs=1e-5)
    assert read_json(tmp_path / "run" / "training.json")["processes"] == 2
    assert first["scsam"] == second["scsam"] and len(first["scsam"]) > 20
    assert sorted(p.name for p in (tmp_path/"scsam").iterdir()) == [
        "history.json", "manifest.json", "model.safetensors", "recipe.json", "snapshots", "training.json"]
    assert "batch_labeled=3 cannot be shared evenly by 2 processes" in first["odd"] == second["odd"] and not (
        tmp_path/"odd").exists()


def test_ctrl_c_stops_at_a_checkpoint_and_says_how_to_go_on(tmp_path):
    run = tmp_path / "run"
    command = [
        sys.executable, "-c", CLI, "train",
        *"--data phantom --preset smoke --labeled 5% --steps 24 --val-every 3 --quiet --out".split(),
        str(run)]
    start = lambda: subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={
        **os.environ, "OMP_NUM_THREADS": "1"})
    p = start()
    until = time.monotonic() + 240
    while p.poll() is None and time.monotonic() < until and not checkpoints(run):
        time.sleep(0.02)
    p.send_signal(signal.SIGINT)
    _, err = p.communicate(timeout=300)
    assert p.returncode == 3 and "the same command resumes it" in err and "Traceback" not in err, err
    assert checkpoints(run)
    p = start()
    _, err = p.communicate(timeout=300)
    assert p.returncode == 0 and (run / "training.json").exists(), err


def test_errors_are_one_line(tmp_path):
    p = subprocess.run([sys.executable, "-c", CLI, "train", "--data",
                        str(tmp_path/"none"), "--out",
                        str(tmp_path/"x")], capture_output=True, text=True, timeout=120)
    assert p.returncode == 2 and p.stderr.startswith("scsam: ") and len(p.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "x").exists()


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as d:
        images = phantom()
        never = undisturbed(images, Path(d, "whole"))
        print(f"undisturbed: {never[1]:.1f} s, first checkpoint after {never[2]:.1f} s")
        for line in ten_kills(images, never, Path(d, "killed")):
            print(line)
        same = state(Path(d, "killed")) == state(never[0])
        print("weights, snapshots and history of the killed run equal those of the undisturbed one:", same)
        raise SystemExit(not same)
