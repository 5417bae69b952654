"""What only whole processes show: a run that is killed and resumed, and one that is interrupted."""
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

OPTIONS = "--data phantom --preset smoke --labeled 5% --steps 24 --val-every 3 --method scsam".split()


def start(out, *more):
    command = [sys.executable, "-c", "from scsam.cli import main; raise SystemExit(main())", "train", *OPTIONS, "--out", str(out), *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def finish(process):
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def digest(run: Path) -> str:
    return hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest()


def wait_for_checkpoint(run: Path, process, step: int):
    "Until the checkpoint of `step` is there, or the process has ended."
    until = time.monotonic() + 240
    while process.poll() is None and time.monotonic() < until and not list((run / "checkpoints").glob(f"step-{step:07d}*")):
        time.sleep(0.02)


def test_killed_and_resumed_equals_never_killed(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    code, out, err = finish(start(whole, "--quiet"))
    assert code == 0, err
    rng, kills = random.Random(0), 0
    for step in (3, 9, 15):
        p = start(killed, "--quiet")
        wait_for_checkpoint(killed, p, step)
        time.sleep(rng.uniform(0, 0.3))
        if p.poll() is None:
            p.kill()
            kills += 1
        p.wait()
        assert not (killed / "training.json").exists() or kills
    code, out, err = finish(start(killed, "--quiet"))
    assert code == 0, err
    assert kills >= 2
    assert digest(killed) == digest(whole)
    strip = lambda r: json.loads((r / "history.json").read_text())["val"]
    assert strip(killed) == strip(whole)
    assert not list(killed.rglob("*.tmp")) or all(p.name.startswith(".") for p in killed.rglob("*.tmp"))


def test_ctrl_c_stops_at_a_checkpoint_and_says_how_to_go_on(tmp_path):
    run = tmp_path / "run"
    p = start(run)
    wait_for_checkpoint(run, p, 3)
    p.send_signal(signal.SIGINT)
    code, out, err = finish(p)
    assert code == 3, err
    assert "the same command goes on from there" in err and "Traceback" not in err
    assert list((run / "checkpoints").glob("step-*.safetensors"))
    code, out, err = finish(start(run, "--quiet"))
    assert code == 0 and (run / "training.json").exists(), err


def test_errors_are_one_line(tmp_path):
    p = subprocess.run([sys.executable, "-c", "from scsam.cli import main; raise SystemExit(main())", "train", "--data", str(tmp_path / "none"), "--out", str(tmp_path / "x")],
                       capture_output=True, text=True, timeout=120)
    assert p.returncode == 2 and p.stderr.startswith("scsam: ") and len(p.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "x").exists()
