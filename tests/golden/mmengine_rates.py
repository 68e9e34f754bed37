"""Print the learning rates that mmengine sets for OpenMMLab's rows: mmengine_rates.json.

Needs `pip install mmengine==0.10.7 torch==2.13.0`, which no test does:

    python tests/golden/mmengine_rates.py > tests/golden/mmengine_rates.json

The schedulers are those of mmpretrain 1.2's files, built and stepped as mmengine's runner and
`ParamSchedulerHook` do it: after every iteration those by iteration, after every epoch the others.
"""

import json
import random

import torch
from mmengine.optim.scheduler import CosineAnnealingLR, LinearLR, MultiStepLR


def steps(*milestones, gamma=0.1):
    """configs/_base_/schedules/{cifar10_bs128,imagenet_bs256}.py; cifar100: resnet50_8xb16."""
    return lambda optimizer, length: [
        MultiStepLR(optimizer, by_epoch=True, milestones=list(milestones), gamma=gamma)
    ]


def strikes_back(epochs):
    """configs/_base_/schedules/imagenet_bs2048_rsb.py; resnet/resnet50_8xb256-rsb-a{1,2,3}."""
    return lambda optimizer, length: [
        LinearLR.build_iter_from_epoch(
            optimizer, start_factor=1e-4, by_epoch=True, begin=0, end=5, epoch_length=length
        ),
        CosineAnnealingLR(
            optimizer, T_max=epochs - 5, eta_min=1e-6, by_epoch=True, begin=5, end=epochs
        ),
    ]


# Rate, epochs, iterations an epoch, schedulers.
ROWS = {
    "cifar10": (0.1, 200, 391, steps(100, 150)),
    "cifar100": (0.1, 200, 391, steps(60, 120, 160, gamma=0.2)),
    "imagenet": (0.1, 100, 5005, steps(30, 60, 90)),
    "rsb_a1": (0.005, 600, 626, strikes_back(600)),
    "rsb_a2": (0.005, 300, 626, strikes_back(300)),
    "rsb_a3": (0.008, 100, 626, strikes_back(100)),
}


def rates(rate, epochs, length, schedule):
    """The rate of every step."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=rate)
    schedulers = schedule(optimizer, length)
    found = []
    for _ in range(epochs):
        for _ in range(length):
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            for scheduler in schedulers:
                if not scheduler.by_epoch:
                    scheduler.step()
        for scheduler in schedulers:
            if scheduler.by_epoch:
                scheduler.step()
    return found


def sample(found, length):
    """Some steps: the edges of every epoch near a change, and seeded random ones."""
    total, rng = len(found), random.Random(0)
    changes = [i for i in range(length, total, length) if found[i] != found[i - 1]]
    chosen = {0, 1, total - 1, *rng.sample(range(5 * length), 20), *rng.sample(range(total), 60)}
    for edge in rng.sample(changes, min(len(changes), 20)):
        chosen |= {edge - 1, edge}
    return sorted(chosen)


def main():
    """Print one row a line."""
    rows = []
    for name, row in ROWS.items():
        found = rates(*row)
        rows.append(f'"{name}": {json.dumps({i: found[i] for i in sample(found, row[2])})}')
    print("{\n" + ",\n".join(rows) + "\n}")


if __name__ == "__main__":
    main()
