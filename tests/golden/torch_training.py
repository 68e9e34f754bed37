"""Print what PyTorch computes for the recipes of torchvision's references: torch_training.json.

Needs `pip install torch==2.13.0`, which no test does:

    python tests/golden/torch_training.py > tests/golden/torch_training.json

The learning rates and the averages are those of the loop in torchvision's
`references/classification/train.py`: `main` builds the schedulers and steps them after each
epoch; `train_one_epoch` moves the average after the optimizer's step.
"""

import json

import numpy as np
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR


class ExponentialMovingAverage(torch.optim.swa_utils.AveragedModel):
    """What torchvision's `references/classification/utils.py` defines by this name."""

    def __init__(self, model, decay):
        def average(averaged, current, number):
            return decay * averaged + (1 - decay) * current

        super().__init__(model, avg_fn=average, use_buffers=True)


class Network(torch.nn.Module):
    """Parameters and a buffer without a forward pass: their gradients and values are given."""

    def __init__(self, values):
        super().__init__()
        self.kernel = torch.nn.Parameter(torch.tensor(values[:2]))
        self.bias = torch.nn.Parameter(torch.tensor(values[2:3]))
        self.register_buffer("statistic", torch.tensor(values[3:]))


def rates():
    """The learning rate of each of the 600 epochs of the V2 recipe."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    warmup = LinearLR(optimizer, start_factor=0.01, total_iters=5)
    main = CosineAnnealingLR(optimizer, T_max=595, eta_min=0)
    scheduler = SequentialLR(optimizer, schedulers=[warmup, main], milestones=[5])
    found = []
    for _ in range(600):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def averages(every=8, epochs=4, epoch=50, warmup_epochs=1, decay=0.75):
    """The average after each of 200 steps of SGD, whose epochs are not whole intervals."""
    draws = np.random.default_rng(0).standard_normal((epochs * epoch + 1, 4))
    model = Network(draws[-1])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.125, momentum=0.5)
    average, found = ExponentialMovingAverage(model, decay), []
    for number in range(epochs):
        for i in range(epoch):
            draw = torch.tensor(draws[number * epoch + i])  # float64, as all of it
            model.kernel.grad, model.bias.grad = draw[:2], draw[2:3]
            model.statistic.copy_(draw[3:])  # as the forward pass does
            optimizer.step()
            if i % every == 0:
                average.update_parameters(model)
                if number < warmup_epochs:
                    average.n_averaged.fill_(0)
            parts = (average.module.kernel, average.module.bias, average.module.statistic)
            found.append(torch.cat(parts).tolist())
    return found


def adamw():
    """The parameters after each of ten steps of AdamW, one gradient of which is 0."""
    draws = np.random.default_rng(1).standard_normal((11, 6))
    draws[3] = 0
    parameter = torch.tensor(draws[-1], requires_grad=True)
    optimizer = torch.optim.AdamW([parameter], lr=0.125, weight_decay=0.25, betas=(0.9, 0.99))
    found = []
    for draw in draws[:10]:
        parameter.grad = torch.tensor(draw)
        optimizer.step()
        found.append(parameter.tolist())
    return found


def main():
    """Print one entry a line."""
    entries = {"torch": torch.__version__, "rates": rates(), "averages": averages()}
    entries["adamw"] = adamw()
    lines = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in entries.items()]
    print("{\n" + ",\n".join(lines) + "\n}")


if __name__ == "__main__":
    main()
