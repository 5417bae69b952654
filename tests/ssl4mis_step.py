"""A step of SSL4MIS's 2D mean teacher, for `tests/side_by_side.py --other`.

    git clone https://github.com/HiLab-git/SSL4MIS
    python tests/side_by_side.py --only 'mean teacher' --other 'SSL4MIS=python tests/ssl4mis_step.py SSL4MIS/code'

Its network, loss and optimiser, in the order of its `train_mean_teacher_2D.py`; 2 + 2 images of 256 pixels and three
channels from memory, so without its loader and its augmentation, which ours does within the step.
"""
import importlib.util, sys
from pathlib import Path
import torch
from side_by_side import answer

code = Path(sys.argv[1])

def module(name):
    "A file of the checkout, without the packages that its neighbours import."
    spec = importlib.util.spec_from_file_location(name.replace('/', '_'), code/f'{name}.py')
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found

torch.set_num_threads(1)
unet = module('networks/unet').UNet
student, teacher = unet(3, 2).train(), unet(3, 2).requires_grad_(False).train()
optimiser = torch.optim.SGD(student.parameters(), lr=.01, momentum=.9, weight_decay=1e-4)
cross_entropy, dice = torch.nn.CrossEntropyLoss(), module('utils/losses').DiceLoss(2)
images, masks = torch.rand(4, 3, 256, 256), (torch.rand(4, 256, 256) > .8).long()


def step(i):
    noise = (.1*torch.randn_like(images[2:])).clamp(-.2, .2)
    logits = student(images)
    probs, target = logits.softmax(1), teacher(images[2:] + noise).softmax(1)
    loss = .5*(dice(probs[:2], masks[:2, None]) + cross_entropy(logits[:2], masks[:2]))
    loss = loss + .1*(probs[2:] - target).square().mean()
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    alpha = min(1 - 1/(i + 1), .99)
    for slow, live in zip(teacher.parameters(), student.parameters()):
        slow.data.mul_(alpha).add_(live.data, alpha=1 - alpha)


answer(step)
