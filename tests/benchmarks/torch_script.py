"""A good PyTorch script, eager: bytes in memory, whole batches augmented in one resampling, channels last, autocast to
bfloat16 where the processor has it, fused Adam. Its arguments are those of `opponent.py`.
"""

import math
import os

import opponent
import torch
import torch.nn.functional as F
from torch import nn


def conv(inputs, filters, size, **more):
    return [nn.Conv2d(inputs, filters, size, **more), nn.ReLU()]


def batch_norm_conv(inputs, filters):
    return [nn.Conv2d(inputs, filters, 3), nn.BatchNorm2d(filters, eps=1e-3), nn.ReLU()]


def separable(inputs, filters):
    """Depthwise, then pointwise: Keras' `SeparableConv2D`, which has no bias in between."""
    return [nn.Conv2d(inputs, inputs, 3, groups=inputs, bias=False), nn.Conv2d(inputs, filters, 1), nn.ReLU()]


def normalized(inputs, filters, size=3, stride=1):
    return [
        nn.Conv2d(inputs, filters, size, stride, size // 2, bias=False),
        nn.BatchNorm2d(filters, eps=1e-3),
    ]


class Residual(nn.Module):
    """Two convolutions beside a shortcut, which becomes a 1×1 convolution if the size changes."""

    def __init__(self, inputs, filters, stride):
        super().__init__()
        self.main = nn.Sequential(
            *normalized(inputs, filters, 3, stride), nn.ReLU(), *normalized(filters, filters)
        )
        self.shortcut = nn.Sequential(*(normalized(inputs, filters, 1, stride) if stride > 1 else []))

    def forward(self, x):
        return F.relu(self.main(x) + self.shortcut(x))


MEAN = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
MODELS = {
    "lenet5x5": lambda: [
        *conv(1, 32, 5, padding=2), nn.MaxPool2d(2), *conv(32, 64, 5, padding=2), nn.MaxPool2d(2),
        *conv(64, 32, 5, padding=2), nn.MaxPool2d(2), nn.Dropout(0.4), nn.Flatten(), nn.Linear(288, 256), nn.ReLU(),
        nn.Linear(256, 10),
    ],
    "vgg_bn": lambda: [
        *batch_norm_conv(1, 32), *batch_norm_conv(32, 32), nn.MaxPool2d(2), *batch_norm_conv(32, 64),
        *batch_norm_conv(64, 64), nn.MaxPool2d(2), nn.Dropout(0.25), nn.Flatten(), nn.Linear(1024, 256), nn.ReLU(),
        nn.Dropout(0.5), nn.Linear(256, 10),
    ],
    "pyramid": lambda: [
        *conv(1, 32, (7, 1)), *conv(32, 32, (1, 7)), nn.MaxPool2d(2), *separable(32, 16), *separable(16, 16),
        nn.MaxPool2d(2), nn.Conv2d(16, 10, 1), *MEAN,
    ],
    "shallow": lambda: [
        *conv(1, 32, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(5408, 128), nn.ReLU(), nn.Dropout(0.5),
        nn.Linear(128, 10),
    ],
    "resnet_mini": lambda: [
        *normalized(1, 16), nn.ReLU(), nn.MaxPool2d(2), Residual(16, 16, 1), Residual(16, 16, 1), Residual(16, 32, 2),
        Residual(32, 32, 1), Residual(32, 32, 1), *MEAN, nn.Linear(32, 10),
    ],
}  # fmt: skip
PARAMETERS = {"lenet5x5": 179_882, "vgg_bn": 330_346, "pyramid": 8_858, "shallow": 693_962, "resnet_mini": 61_498}


def augment(x):
    """Rotate, shift and zoom each image, in one bilinear resampling."""
    turn, shift_x, shift_y, zoom_x, zoom_y = torch.rand(5, len(x)).mul_(2).sub_(1)
    cos, sin = (function(turn * math.radians(opponent.DEGREES)) for function in (torch.cos, torch.sin))
    shift_x, shift_y = shift_x * 2 * opponent.SHIFT, shift_y * 2 * opponent.SHIFT  # of a width of 2
    zoom_x, zoom_y = 1 + opponent.ZOOM * zoom_x, 1 + opponent.ZOOM * zoom_y
    matrix = [cos * zoom_x, -sin * zoom_y, cos * shift_x - sin * shift_y,
              sin * zoom_x, cos * zoom_y, sin * shift_x + cos * shift_y]  # fmt: skip
    grid = F.affine_grid(torch.stack(matrix, 1).view(-1, 2, 3), x.shape, align_corners=True)
    return F.grid_sample(x, grid, align_corners=True)


@torch.inference_mode()
def accuracy(net, autocast, x, y):
    net.eval()
    right = 0
    for images, labels in zip(x.split(opponent.VALIDATION_BATCH), y.split(opponent.VALIDATION_BATCH), strict=True):
        with autocast:
            right += (net(images.float() / 255).argmax(1) == labels).sum().item()
    net.train()
    return right / len(x)


def train_epoch(net, optimizer, autocast, x, y, aug):
    for rows in torch.randperm(len(x)).split(opponent.BATCH):
        images = x[rows].float() / 255
        if aug != "none":
            images = augment(images)
        with autocast:
            scores = net(images)
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(scores.float(), y[rows]).backward()
        optimizer.step()


def main():
    args = opponent.arguments()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    parts = [
        (torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(labels).long())
        for images, labels in opponent.load(args)
    ]
    net = nn.Sequential(*MODELS[args.model]()).to(memory_format=torch.channels_last)
    assert sum(weight.numel() for weight in net.parameters()) == PARAMETERS[args.model]
    optimizer = torch.optim.Adam(net.parameters(), fused=True)
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=args.precision == "bfloat16")
    (x, y), val, test = parts
    turns = opponent.Turns(len(x))
    for _ in range(args.epochs):
        turns.start()
        train_epoch(net, optimizer, autocast, x, y, args.aug)
        accuracy(net, autocast, *val)
        turns.end()
    accuracy(net, autocast, *test)


if __name__ == "__main__":
    main()
