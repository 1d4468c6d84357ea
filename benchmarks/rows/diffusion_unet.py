"""The diffusion U-Net and DDIM sampling beside diffusers'."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from pair import Pair, Row
from torch import Tensor, nn

from dlreview.samplers import Schedule, ddim

STEPS = 50


def unet(device: str, batch: int, works: tuple[str, ...], draws: int = 0, **config: Any) -> Pair:
    """Pair two noise predictors; with `draws` their samplers of that many images are timed."""
    from diffusers import DDIMScheduler, UNet2DModel

    attention = config.pop("attention")
    theirs = UNet2DModel(
        in_channels=3,
        out_channels=3,
        down_block_types=[f"{'Attn' * a}DownBlock2D" for a in attention],
        up_block_types=[f"{'Attn' * a}UpBlock2D" for a in reversed(attention)],
        **config,
    ).to(device)
    side, count = config["sample_size"], draws or batch
    x, noise = torch.randn(2, count, 3, side, side, device=device)
    t = torch.randint(1000, (count,), device=device)
    scheduler = DDIMScheduler(1000)
    schedule = Schedule.from_diffusers(scheduler)

    def draw_ours(net: nn.Module) -> Tensor:
        return ddim.sample(net, noise, schedule, STEPS, clip=1.0)

    @torch.no_grad()
    def draw_theirs(net: nn.Module) -> Tensor:  # the loop of diffusers' DDIMPipeline
        scheduler.set_timesteps(STEPS)
        image = noise
        for step in scheduler.timesteps:
            image = scheduler.step(net(image, step).sample, step, image, eta=0.0).prev_sample
        return image

    return Pair(
        theirs,
        (x, t),
        output=lambda output: output.sample,
        loss=lambda prediction: F.mse_loss(prediction.float(), noise),
        samplers={f"DDIM {STEPS} steps": (draw_ours, draw_theirs)} if draws else {},
        works=works,
    )


BOTH = ("forward", "train step")
SMALL = {"block_out_channels": (32, 64), "layers_per_block": 1, "attention": [False, True]}
SMALL |= {"attention_head_dim": None, "norm_num_groups": 8}
CIFAR = {"block_out_channels": (128, 256, 256, 256), "attention": [False, True, False, False]}
CIFAR |= {"sample_size": 32, "layers_per_block": 2, "attention_head_dim": None}
ROWS = [
    Row(
        "U-Net batch 16",
        cpu=lambda: unet("cpu", 16, BOTH, sample_size=32, **SMALL),
    ),
    Row(
        "U-Net (CIFAR-10) batch 128",
        cuda=lambda: unet("cuda", 128, BOTH, **CIFAR),
    ),
    *(
        Row(
            f"U-Net sampling batch {count}",
            cpu=lambda count=count: unet("cpu", count, (), count, sample_size=16, **SMALL),
            cuda=lambda count=count: unet("cuda", count, (), count, **CIFAR),
        )
        for count in (1, 64)
    ),
]
