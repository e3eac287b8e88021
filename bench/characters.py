"""A small transformer in torch that predicts characters of cyoptim's documentation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.runner import ROOT

WIDTH, CONTEXT, LAYERS, HEADS, BATCH = 96, 48, 2, 4, 16
PIECE = 960
"""Characters of a piece of the text; one of ten pieces is not trained on."""


class Characters(nn.Module):
    """Attention over the characters before, in two layers that normalize first."""

    def __init__(self, alphabet: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(alphabet, WIDTH)
        self.position = nn.Parameter(0.02 * torch.randn(CONTEXT, WIDTH))
        layers = (
            nn.TransformerEncoderLayer(
                WIDTH, HEADS, 4 * WIDTH, 0.0, "gelu", batch_first=True, norm_first=True
            )
            for _ in range(LAYERS)
        )
        self.layers = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, alphabet)
        mask = nn.Transformer.generate_square_subsequent_mask(CONTEXT)
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, text: Tensor) -> Tensor:
        x = self.embed(text) + self.position
        for layer in self.layers:
            x = layer(x, src_mask=self.mask)
        return self.head(self.norm(x))


@dataclass(frozen=True)
class Text:
    """The numbers of the characters to train on, and those of the others."""

    train: Tensor
    held: Tensor
    alphabet: int

    @property
    def facts(self) -> dict[str, str]:
        """What losses depend on, to be stored with them."""
        parameters = sum(p.numel() for p in Characters(self.alphabet).parameters())
        characters = len(self.train) + len(self.held)
        return {"text": f"{characters:,} characters", "model": f"{parameters:,} parameters"}

    @classmethod
    def of_the_documentation(cls) -> Text:
        """All pages, in the order of their names."""
        pages = sorted((ROOT / "docs").glob("*.md"))
        text = "".join(page.read_text(encoding="utf-8") for page in pages)
        alphabet = {character: number for number, character in enumerate(sorted(set(text)))}
        numbers = torch.tensor([alphabet[character] for character in text])
        pieces = numbers[: len(numbers) // PIECE * PIECE].view(-1, PIECE)
        held = torch.arange(len(pieces)) % 10 == 9
        return cls(pieces[~held].flatten(), pieces[held].flatten(), len(alphabet))

    def batch(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Random passages, and the characters that follow each of theirs."""
        starts = torch.randint(len(self.train) - CONTEXT, (BATCH, 1), generator=generator)
        places = starts + torch.arange(CONTEXT)
        return self.train[places], self.train[places + 1]

    def passages(self) -> tuple[Tensor, Tensor]:
        """All that was held back."""
        count = (len(self.held) - 1) // CONTEXT * CONTEXT
        return self.held[:count].view(-1, CONTEXT), self.held[1 : count + 1].view(-1, CONTEXT)


def loss(model: Characters, inputs: Tensor, targets: Tensor) -> Tensor:
    """Nats per character."""
    return functional.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())


@torch.no_grad()
def loss_held(model: Characters, text: Text) -> float:
    """Of all characters that were held back."""
    inputs, targets = text.passages()
    parts = zip(inputs.split(4 * BATCH), targets.split(4 * BATCH), strict=True)
    return sum(float(loss(model, x, y)) * len(x) for x, y in parts) / len(inputs)
