"""torch models and their data, trained one epoch at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

SEED = 0


@dataclass(frozen=True)
class Task:
    """A model, and its training data."""

    model: nn.Module
    inputs: Tensor
    targets: Tensor
    batch: int
    loss: Callable[[Tensor, Tensor], Tensor]

    def batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The data in the order of this epoch, the same for every contender."""
        order = torch.randperm(len(self.inputs), generator=torch.Generator().manual_seed(epoch))
        for rows in order.split(self.batch):
            yield self.inputs[rows], self.targets[rows]

    @property
    def sizes(self) -> list[int]:
        """The elements of each parameter."""
        return [parameter.numel() for parameter in self.model.parameters()]


class Residual(nn.Module):
    """x plus a small network of x: the block that deep networks repeat."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


class RowsOfPixels(nn.Module):
    """A transformer that reads an image of 8 x 8 pixels as eight rows."""

    def __init__(self, width: int = 64, layers: int = 4) -> None:
        super().__init__()
        self.embed = nn.Linear(8, width)
        self.position = nn.Parameter(torch.zeros(8, width))
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers)
        self.head = nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        rows = self.embed(images.view(-1, 8, 8)) + self.position
        return self.head(self.encoder(rows).mean(1))


class Recommender(nn.Module):
    """A rating from the inner product of a user's and an item's vector, and their biases."""

    def __init__(self, users: int, items: int, width: int) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(users, width), nn.Embedding(items, width)
        self.user_bias, self.item_bias = nn.Embedding(users, 1), nn.Embedding(items, 1)

    def forward(self, pairs: Tensor) -> Tensor:
        user, item = pairs.unbind(1)
        bias = self.user_bias(user) + self.item_bias(item)
        return (self.users(user) * self.items(item)).mean(1) + bias.squeeze(1)


def digits(model: nn.Module) -> Task:
    """scikit-learn's 1,797 images of handwritten digits."""
    from sklearn.datasets import load_digits

    images, numbers = load_digits(return_X_y=True)
    inputs = torch.from_numpy(images).float() / 16
    return Task(model, inputs, torch.from_numpy(numbers).long(), 32, functional.cross_entropy)


def mlp() -> Task:
    """Two hidden layers: 6 tensors."""
    layers = nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10)
    return digits(nn.Sequential(*layers))


def residual() -> Task:
    """32 narrow residual blocks: 196 tensors, most of them tiny."""
    blocks = (Residual(32) for _ in range(32))
    return digits(nn.Sequential(nn.Linear(64, 32), *blocks, nn.Linear(32, 10)))


def transformer() -> Task:
    """Four layers of attention over rows of pixels."""
    return digits(RowsOfPixels())


def recommender() -> Task:
    """Dense embeddings of 20,000 users and 20,000 items; made-up ratings."""
    generator = torch.Generator().manual_seed(SEED)
    pairs = torch.randint(20_000, (8_192, 2), generator=generator)
    ratings = torch.randn(8_192, generator=generator)
    return Task(Recommender(20_000, 20_000, 64), pairs, ratings, 256, functional.mse_loss)


MODELS: dict[str, Callable[[], Task]] = {
    "mlp": mlp,
    "residual": residual,
    "transformer": transformer,
    "recommender": recommender,
}


def make(name: str) -> Task:
    """The task of this name, initialized as for every contender."""
    torch.manual_seed(SEED)
    return MODELS[name]()
