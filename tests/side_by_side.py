"""How long a training step takes beside a yardstick that is none of our code, and whether a change has made one slower.

    python tests/side_by_side.py                     measure, and compare with results/speed/side_by_side.json
    python tests/side_by_side.py --only pair,cpu     some of the variants
    python tests/side_by_side.py --write             measure, and keep the result there
    python tests/side_by_side.py --base DIR          the same variants of another checkout too, in turn with these
    python tests/side_by_side.py --other 'NAME=COMMAND'   a program of your own, such as tests/released_step.py; --write
                                                     keeps it `beside` each variant

Every variant is a process of its own with one thread. They take one step in turn (A B C A B C ...), so that a busy
machine disturbs all alike; a step's time is the processor time of its process, and the first is not counted. A ratio is
a variant's median over the yardstick's: one image of 256 pixels through segment_anything's own ViT-B, both directions,
in bf16 beside a variant in bf16, since processors of one name differ in that.
The exit status is 1 where a ratio is over 10 % larger than the one that was kept on the same kind of processor (some
have no bf16 of their own); --write on another kind begins the file anew. COMMAND is a program that prints `ready`, and
then, for each line that it reads, takes one step and prints a JSON list: seconds, peak memory in MB.
"""
import argparse, json, os, shlex, statistics, subprocess, sys, time, warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KEPT = ROOT/'results'/'speed'/'side_by_side.json'
VIT = dict(sam='vit_b', weights='random', labeled='8', batch_labeled=2, batch_unlabeled=2)
CPU = dict(preset='cpu', weights='random', labeled='8')
PAIR = dict(preset='pair', weights='random', unet_weights='', labeled='8', val=0, unet_to_sam=1., pair_wait=0.)
VARIANTS = {'vit-b lora fp32': VIT, 'vit-b lora bf16': dict(VIT, precision='bf16'),
            'vit-b lora bf16 recomputed': dict(VIT, precision='bf16', grad_checkpoint=True),
            'cpu preset fp32': CPU, 'cpu preset bf16': dict(CPU, precision='bf16'), 'pair 128 px bf16': PAIR,
            'mean teacher fp32': dict(method='mean-teacher', labeled='8', batch_labeled=2, batch_unlabeled=2)}
TOLERANCE = 1.1


def yardstick(bf16: bool):
    "segment_anything's encoder, forward and backward."
    import torch
    from segment_anything.modeling import ImageEncoderViT
    net = ImageEncoderViT(256, use_rel_pos=True, window_size=14, global_attn_indexes=(2, 5, 8, 11))
    images = torch.rand(1, 3, 256, 256)
    def run(step):
        with torch.autocast('cpu', torch.bfloat16, enabled=bf16):
            loss = net(images).float().square().mean()
        loss.backward()
    return run


def training(recipe: dict):
    "A whole step: batch, losses, gradients, optimisers."
    import torch
    from scsam.config import Recipe, seed_step
    from scsam.datasets import load_dataset
    from scsam.feed import Feed, assign_roles
    from scsam.learner import make_method
    r = Recipe.preset(recipe.pop('preset', 'paper'), **recipe)
    method = make_method(r).train()
    optimizers, roles = method.optimizers(), assign_roles(load_dataset('phantom', n=24, test=0), r)
    feed = Feed(roles, r, method.sam, method.needs_unlabeled, method.view, twice=method.asks_twice).fill()
    def run(step):
        seed_step(r.seed, step)
        for o in optimizers: o.zero_grad()
        batch = feed.at(step)
        with torch.autocast('cpu', torch.bfloat16, enabled=r.precision == 'bf16'):
            loss = method.losses(batch, step)['loss']
        loss.backward()
        for o in optimizers: o.step()
    return run


def answer(run):
    "Takes `run(0)`, `run(1)`, ...: a step for each line that is read."
    import resource
    print('ready', flush=True)
    for step, _ in enumerate(sys.stdin):
        start = time.process_time()
        run(step)
        took, kilobytes = time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(json.dumps([took, kilobytes/2**10]), flush=True)


def work(name: str):
    "One variant."
    import torch
    warnings.filterwarnings('ignore')
    torch.set_num_threads(1)
    answer(training(dict(VARIANTS[name])) if name in VARIANTS else yardstick('bf16' in name))


def together(commands: dict, steps: int) -> dict: # {name: (command, environment)} → {name: figures}
    "All programs, stepped in turn."
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    programs = {k: subprocess.Popen(c, env={**os.environ, 'OMP_NUM_THREADS': '1', **env}, **pipes)
                for k, (c, env) in commands.items()}
    took = {k: [] for k in programs}
    for k, p in programs.items():
        while (line := p.stdout.readline()).strip() != 'ready':
            if not line: raise SystemExit(f'{k} ended before it was ready; to see why: {shlex.join(commands[k][0])}')
    for _ in range(steps + 1):
        for k, p in programs.items():
            p.stdin.write('step\n'); p.stdin.flush()
            took[k].append(json.loads(p.stdout.readline()))
    for p in programs.values(): p.stdin.close(); p.wait()
    seconds = {k: [t for t, _ in v[1:]] for k, v in took.items()}
    median = {k: statistics.median(v) for k, v in seconds.items()}
    return {k: {'ratio': median[k]/median['yardstick'], 'seconds': median[k], 'range': [min(v), max(v)],
                'megabytes': took[k][-1][1]} for k, v in seconds.items()}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--only', default='', help='parts of the names of variants, separated by commas')
    p.add_argument('--steps', type=int, default=4)
    p.add_argument('--write', action='store_true')
    p.add_argument('--base', type=Path)
    p.add_argument('--other', action='append', default=[])
    p.add_argument('--work', help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.work: return work(a.work)
    names = [v for v in VARIANTS if not a.only or any(o in v for o in a.only.split(','))]
    kept, worse = json.loads(KEPT.read_text()) if KEPT.exists() else {'variants': {}}, []
    sys.path.insert(0, str(ROOT))
    from scsam.records import environment
    now = environment()
    here, there = now['machine']['cpu'], kept.get('machine', {}).get('cpu')
    known = kept['variants'] if here == there else {}
    if a.write: kept['variants'] = dict(known)
    if there and not known: print(f'the kept ratios are of another processor ({there}; this is {here}): not compared')
    others = {n: (shlex.split(c), {}) for n, c in (o.split('=', 1) for o in a.other)}
    def program(name, root):
        return [sys.executable, str(Path(__file__).resolve()), '--work', name], {'PYTHONPATH': str(root)}
    for name in names: # one after another beside the yardstick: memory for two or three programs is enough
        commands = {'yardstick': program('yardstick' + ' bf16'*('bf16' in name), ROOT), name: program(name, ROOT)}
        if a.base: commands[f'{name}, base'] = program(name, a.base.resolve())
        commands.update(others)
        found = together(commands, a.steps)
        before = known.get(name, {}).get('ratio')
        for k, f in found.items():
            then = f'   kept {before:.2f}' if k == name and before else ''
            low, high = f['range']
            print(f"{k:34}{f['seconds']:8.2f} s  [{low:.2f}, {high:.2f}]{f['megabytes']:8.0f} MB   "
                  f"ratio {f['ratio']:.2f}{then}", flush=True)
        if before and found[name]['ratio'] > TOLERANCE*before:
            worse.append(f'{name}: {found[name]["ratio"]/before:.2f} times the kept ratio')
        if a.write:
            ours = found[name]
            beside = {k: found[k] | {'commit': now['commit'], **{f'{m} of it': ours[m]/found[k][m]
                                                                  for m in ('seconds', 'megabytes')}} for k in others}
            figures = ours | {'beside': beside or known.get(name, {}).get('beside', {})}
            kept['variants'][name] = json.loads(json.dumps(figures), parse_float=lambda x: round(float(x), 3))
            kept |= {'format': 'scsam-side-by-side-1', **now}
            KEPT.write_text(json.dumps(kept, indent=1) + '\n')
    if worse: raise SystemExit('slower than what is kept: ' + '; '.join(worse))


if __name__ == '__main__': main()
