"""A step of the code released with SC-SAM's paper, for `tests/side_by_side.py --other`.

    git clone https://github.com/vnlvi2k3/SC-SAM
    pip install einops
    python tests/side_by_side.py --only 'vit-b' --other 'released=python tests/released_step.py SC-SAM'
    ... --other 'without anomaly mode=python tests/released_step.py SC-SAM --plain'

Its trainer's `train` on the CPU, with the settings of its `run.py` and random weights; 2 + 2 images of 256 pixels from
memory, so without its loader and its augmentation, which ours does within the step. It carries no licence and is no
part of this package: a checkout is imported as it is, with stand-ins for packages that a training step does not use.
"""
import importlib.util, sys, tempfile, warnings
from types import SimpleNamespace
from unittest.mock import MagicMock
import torch
from side_by_side import answer

checkout, *options = sys.argv[1:]
sys.path.insert(0, checkout)
for package in ('medpy', 'hausdorff', 'cv2', 'h5py', 'skimage', 'albumentations'):
    if importlib.util.find_spec(package) is None: sys.modules[package] = MagicMock()
warnings.filterwarnings('ignore')
torch.Tensor.cuda = torch.nn.Module.cuda = lambda self, *args, **kwargs: self
torch.set_num_threads(1)
torch.autograd.set_detect_anomaly('--plain' not in options)   # its run.py leaves it on
from trainer_cotraining import Trainer

with tempfile.NamedTemporaryFile() as f:
    torch.save({}, f.name)                                    # a checkpoint without weights: they stay random
    trainer = Trainer(SimpleNamespace(
        sam_checkpoint=f.name, model_type='vit_b', mod='sam_adpt', encoder_adapter=True, thd=False, multimask=False,
        num_classes=2, in_channels=3, image_size=256, point_nums=5, box_nums=1, batch_size=4, labeled_bs=2, lr=1e-4,
        UNet_lr=.01, mixed_iterations=10000, max_iterations=40000, device='cpu'))
images, masks = torch.rand(4, 3, 256, 256), (torch.rand(4, 256, 256) > .8).long()
answer(lambda step: trainer.train(images, masks, step))
