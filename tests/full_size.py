"""What a training step of each row of the tables takes at full size: operations, memory, processor seconds.

    python tests/full_size.py --count               # operations of every row, from a batch of 1 + 1, times 6
    python tests/full_size.py --step scsam cpc-sam  # a whole step of 6 + 6 of these rows, each in a process of its own

Both write to results/rehearsal/full-size.json, which nbs/32b_plan.ipynb reads. Weights are random; the cost of a step
does not depend on them."""
import argparse
import json
import resource
import subprocess
import sys
import time
import warnings
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from scsam.config import seed_step
from scsam.data import Batch, load_arrays
from scsam.datasets import load_dataset
from scsam.experiment import ROWS, experiment_queue
from scsam.method import build

FILE = Path(__file__).resolve().parents[1] / "results" / "rehearsal" / "full-size.json"


def memory() -> float:  # megabytes, the most so far
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def one_step(row: str, images: int) -> dict:
    "Two steps of a row late in its training, `images` labelled and as many unlabelled ones."
    before = memory()
    recipe = experiment_queue("polyp", "full")[f"{row}-10-s0"].replace(
        weights="random", unet_weights="", batch_labeled=images, batch_unlabeled=images
    )
    torch.manual_seed(0)
    method = build(recipe).train()
    arrays = load_arrays(list(load_dataset("phantom", n=2 * images, test=0, source="colour")), recipe.image_size)
    batch = Batch.of(arrays, range(images), range(images, 2 * images) if method.needs_unlabeled else ())
    optimizers = method.optimizers()

    def step(i):
        seed_step(0, i)
        method.losses(batch, i)["loss"].backward()
        for o in optimizers:
            o.step()
            o.zero_grad()

    with FlopCounterMode(display=False) as count:
        step(recipe.steps - 2)
    trained = sum(p.numel() for o in optimizers for g in o.param_groups for p in g["params"])
    said = {"flops": count.get_total_flops() * 6 // images, "trained": trained}
    if images == 6:
        start = time.process_time()
        step(recipe.steps - 1)
        said |= {"seconds": time.process_time() - start, "megabytes": memory(), "before": before}
    return said


def keep(found: dict):
    old = json.loads(FILE.read_text()) if FILE.exists() else {"rows": {}}
    rows = {r: {**old["rows"].get(r, {}), **found.get(r, {})} for r in ROWS if r in found or r in old["rows"]}
    about = "One training step at 256 px, batch 6 + 6, fp32, one thread of a CPU; made by tests/full_size.py."
    FILE.parent.mkdir(parents=True, exist_ok=True)
    FILE.write_text(json.dumps({"about": about, "torch": torch.__version__, "rows": rows}, indent=1) + "\n")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--count", action="store_true")
    p.add_argument("--step", nargs="*", default=[], metavar="ROW")
    p.add_argument("--alone", metavar="ROW", help="in this process; prints JSON")
    args = p.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if args.alone:
        return print(json.dumps(one_step(args.alone, 6)))
    for row in ROWS if args.count else ():
        keep({row: one_step(row, 1)})
        print(row, json.loads(FILE.read_text())["rows"][row], flush=True)
    for row in args.step:
        done = subprocess.run([sys.executable, __file__, "--alone", row], capture_output=True, text=True, check=True)
        keep({row: json.loads(done.stdout.splitlines()[-1])})
        print(row, done.stdout.splitlines()[-1], flush=True)


if __name__ == "__main__":
    main()
