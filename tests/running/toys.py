"""Modules of a user's own, as `--trust` takes them: a GAN with two optimizers, a plain module."""

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.cli import OptimizerCallable
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader

from dlreview.learners.learner import TRAIN, Learner
from dlreview.nn.feed_forward import FeedForward


class MLP(nn.Module):
    """Two linear layers over flat images."""

    def __init__(self, width_in: int, width: int, width_out: int) -> None:
        super().__init__()
        self.width_in, self.width, self.width_out = width_in, width, width_out
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(width_in, width), nn.ReLU(), nn.Linear(width, width_out)
        )

    def forward(self, x):
        return self.layers(x)


class GAN(Learner):
    """Goodfellow et al. 2014: two networks, two optimizers, the non-saturating loss."""

    networks = ("generator", "discriminator")
    reads = ("image",)
    monitor = ("val/loss", "min")

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        latent: int = 4,
        optimizer: OptimizerCallable = torch.optim.Adam,
    ) -> None:
        super().__init__(optimizer)
        self.generator, self.discriminator, self.latent = generator, discriminator, latent
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        random = self.random(batch, TRAIN, self.current_epoch, batch_idx)
        real, fake = batch["image"], self.generator(random.normal(self.latent))
        of_generator, of_discriminator = self.optimizers()
        for optimizer, loss in (
            (of_discriminator, lambda: self.judge(real, fake.detach())),
            (of_generator, lambda: F.softplus(-self.discriminator(fake)).mean()),
        ):
            value = loss()
            optimizer.zero_grad()
            self.manual_backward(value)
            optimizer.step()
        self.log("train/loss", value)

    def judge(self, real, fake):
        real, fake = self.discriminator(real), self.discriminator(fake)
        return (F.softplus(-real) + F.softplus(fake)).mean()

    def validation_step(self, batch, batch_idx):
        noise = self.random(batch, 1, batch_idx).normal(self.latent)
        self.log("val/loss", self.judge(batch["image"], self.generator(noise)))

    def configure_optimizers(self):
        return [self.optimizer(net.parameters()) for net in (self.generator, self.discriminator)]


class PlainGAN(LightningModule):
    """The same without `Learner`: noise comes from torch's own generator."""

    def __init__(self, generator: nn.Module, discriminator: nn.Module, lr: float = 1e-3) -> None:
        super().__init__()
        self.generator, self.discriminator, self.lr = generator, discriminator, lr
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        real = batch["image"].flatten(1)
        fake = self.generator(torch.randn(len(real), self.generator.width_in))
        losses = [
            F.softplus(-self.discriminator(fake)).mean(),
            (F.softplus(-self.discriminator(real)) + F.softplus(self.discriminator(fake.detach()))
             ).mean(),
        ]  # fmt: skip
        for optimizer, loss in zip(self.optimizers(), losses, strict=True):
            optimizer.zero_grad()
            self.manual_backward(loss, retain_graph=True)
        for optimizer in self.optimizers():
            optimizer.step()
        self.log("train/loss", losses[0])

    def configure_optimizers(self):
        nets = self.generator, self.discriminator
        return [torch.optim.Adam(net.parameters(), lr=self.lr) for net in nets]


class Plain(LightningModule):
    """What Lightning's own introduction shows: layers made inside."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.width = width
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(64, width), nn.Dropout(0.5), nn.Linear(width, 10)
        )

    def training_step(self, batch, batch_idx):
        loss = F.cross_entropy(self.layers(batch["image"]), batch["label"])
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Digits(LightningDataModule):
    """An ordinary DataLoader, shuffled."""

    def __init__(self, batch_size: int = 32, shuffle: bool = True, num_workers: int = 0) -> None:
        super().__init__()
        self.batch_size, self.shuffle, self.num_workers = batch_size, shuffle, num_workers
        pixels, labels = load_digits(return_X_y=True)
        images = torch.from_numpy(pixels).float().view(-1, 1, 8, 8) / 8 - 1
        self.rows = [
            {"image": image, "label": int(label)}
            for image, label in zip(images, labels, strict=True)
        ]

    def train_dataloader(self):
        return DataLoader(self.rows, self.batch_size, self.shuffle, num_workers=self.num_workers)


class Complex(Plain):
    """What no file of safetensors holds."""

    networks = ("layers", "spectrum")

    def __init__(self, width: int = 8) -> None:
        super().__init__(width)
        self.spectrum = nn.Linear(2, 2, dtype=torch.complex32)


class Nameless(Plain):
    """Names a network that it does not have."""

    networks = ("layers", "head")


class Inside(Plain):
    """A network of dlreview made inside, and a head that nobody names."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.width = width
        del self.layers
        self.encoder = FeedForward(64, width)
        self.head = nn.Linear(64, 10)

    def layers(self, image):
        return self.head(self.encoder(image.flatten(1)))
