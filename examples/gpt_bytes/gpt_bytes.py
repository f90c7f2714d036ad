"""A small GPT that learns to write Python from the bytes of the standard library's sources.

The files are split by name into training and held-out ones, so the held-out loss is measured on
programs that the model has never seen. All sizes follow from one dial, `depth`.
"""

import math
import sysconfig
import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy, gelu, scaled_dot_product_attention

import reknit
from reknit import Column, Row, Vocabulary
from reknit.data import ByteFiles

CHANNELS = 32
"""Of a head."""

CUTS = {
    "embedding.bytes": Vocabulary(),
    "blocks.*.qkv": Column(blocks=3, unit=CHANNELS),
    "blocks.*.out": Row(),
    "blocks.*.up": Column(),
    "blocks.*.down": Row(),
    "head": Column(gather=True),
}
"""How the layers are cut if `parallelism.tensor` is more than 1."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """What the manifest may set under `entrypoint.config`."""

    depth: int = 4
    """Blocks; there are as many heads in each."""
    context: int = 128
    """Bytes that the model sees at once."""
    steps: int = 200
    learning_rate: float = 3e-3
    warmup: int = 20
    """Steps over which the learning rate rises; afterwards it falls along a cosine."""
    weight_decay: float = 0.1
    dropout: float = 0.0
    evaluate_every: int = 50
    evaluation_samples: int = 256
    corpus: str = sysconfig.get_path("stdlib")
    """A folder whose Python files are the corpus."""


class Block(nn.Module):
    """Attention and a feed-forward layer, each added to its input."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.mlp_norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps (batch, time, width) to the same shape."""
        batch, time, _ = x.shape
        # Under tensor parallelism a rank has some of the heads.
        heads = (batch, time, -1, CHANNELS)
        q, k, v = (
            part.view(heads).transpose(1, 2)
            for part in self.qkv(self.attention_norm(x)).chunk(3, dim=-1)
        )
        mixed = scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.dropout(self.out(mixed.transpose(1, 2).reshape(batch, time, -1)))
        return x + self.dropout(self.down(gelu(self.up(self.mlp_norm(x)))))


class Embedding(nn.Module):
    """Bytes and their positions as vectors."""

    def __init__(self, width: int, context: int) -> None:
        super().__init__()
        self.bytes = nn.Embedding(256, width)
        self.positions = nn.Embedding(context, width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Maps (batch, time) to (batch, time, width)."""
        embedded: torch.Tensor = self.bytes(tokens) + self.positions.weight[: tokens.shape[1]]
        return embedded


class GPT(nn.Module):
    """A decoder over bytes; the embedding is also the output layer."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width = CHANNELS * config.depth
        self.embedding = Embedding(width, config.context)
        self.blocks = nn.ModuleList(Block(width, config.dropout) for _ in range(config.depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 256, bias=False)
        self.apply(self._initialise)
        self.head.weight = self.embedding.bytes.weight

    @staticmethod
    def _initialise(module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)

    def pipeline_layers(self) -> list[nn.Module]:
        """What can be cut into stages: these modules, one after the other, are the forward."""
        return [self.embedding, *self.blocks, self.norm, self.head]

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Maps bytes (batch, time) to the logits of the next ones (batch, time, 256)."""
        x = tokens
        for layer in self.pipeline_layers():
            x = layer(x)
        return x


def next_byte_loss(model: nn.Module, windows: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy in nats per byte; windows are (batch, context + 1)."""
    windows = windows.long()
    logits = model(windows[:, :-1])
    return cross_entropy(logits.reshape(-1, 256).float(), windows[:, 1:].reshape(-1))


def corpus_files(folder: str) -> tuple[list[Path], list[Path]]:
    """The training files and the held-out ones: one file in ten, chosen by its name's checksum."""
    files = sorted(Path(folder).glob("*.py"))
    if not files:
        raise reknit.ConfigurationError(f"corpus: there are no Python files in {folder}")
    held_out = [file for file in files if zlib.crc32(file.name.encode()) % 10 == 0]
    training = [file for file in files if file not in held_out]
    return training, held_out


def unigram_entropy(files: list[Path]) -> float:
    """Nats per byte that a model needs which knows only how frequent each byte is."""
    counts: Counter[int] = Counter()
    for file in files:
        counts.update(file.read_bytes())
    total = counts.total()
    return -sum(n / total * math.log(n / total) for n in counts.values())


def parameter_groups(params: list[nn.Parameter], weight_decay: float) -> list[dict[str, object]]:
    """Matrices decay, gains and biases do not."""
    return [
        {"params": [p for p in params if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in params if p.ndim < 2], "weight_decay": 0.0},
    ]


def train(job: reknit.Job, config: Config) -> None:
    """Trains on the standard library and evaluates on the files held out."""
    training, held_out = corpus_files(config.corpus)
    dataset = ByteFiles(training, window=config.context + 1)
    held_out_data = ByteFiles(held_out, window=config.context + 1)

    def learning_rate(step: int) -> float:
        if step < config.warmup:
            return (step + 1) / config.warmup
        done = (step - config.warmup) / max(1, config.steps - config.warmup)
        return 0.1 + 0.45 * (1 + math.cos(math.pi * min(1.0, done)))

    engine = job.engine(
        model=lambda: GPT(config),
        optimizer=lambda params: torch.optim.AdamW(
            parameter_groups(params, config.weight_decay),
            lr=config.learning_rate,
            betas=(0.9, 0.95),
        ),
        loss=next_byte_loss,
        schedule=lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, learning_rate),
        clip_grad_norm=1.0,
        tensor_plan=CUTS,
    )
    for batch in job.batches(dataset, steps=config.steps):
        engine.train_step(batch)
        done = batch.step + 1
        if done % config.evaluate_every == 0 or done == config.steps:
            engine.evaluate(held_out_data, limit=config.evaluation_samples)
    if job.rank == 0:
        print(f"byte-unigram entropy of the held-out files: {unigram_entropy(held_out):.4f} nats")
