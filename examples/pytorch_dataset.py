"""Scans as a PyTorch dataset, for a training loop of one's own.

python examples/pytorch_dataset.py       # two epochs of a small network on the simulated scan of the package
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, DataLoader, Dataset

import ptycho_ray as pr
from ptycho_ray.physics.diffraction import diffraction_intensity, illuminate
from ptycho_ray.physics.likelihood import poisson_deviance


class Patterns(Dataset[tuple[Tensor, Tensor]]):
    """Counts [N, N] and position [2] (row, column, pixels) of each pattern of a scan; patterns of an HDF5 file stay on disk."""

    def __init__(self, scan: pr.RawData) -> None:
        self.scan = scan

    def __len__(self) -> int:
        return len(self.scan)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        counts = self.scan.patterns.intensity(np.array([number]))[0]
        return torch.from_numpy(counts), torch.from_numpy(self.scan.positions_px[number].astype(np.float32))


def train(scans: list[pr.RawData], epochs: int = 2, seed: int = 0) -> list[float]:
    """The mean loss of each epoch of a network that predicts patches, whose diffraction is compared with the counts."""
    torch.manual_seed(seed)
    probe = torch.from_numpy(scans[0].probe)
    scale = 1 / float(np.sqrt(scans[0].patterns.intensity()).max())
    network = nn.Sequential(nn.Conv2d(1, 16, 7, padding=3), nn.ReLU(), nn.Conv2d(16, 2, 7, padding=3))
    adam = torch.optim.Adam(network.parameters(), lr=2e-3)
    data = DataLoader(ConcatDataset([Patterns(scan) for scan in scans]), batch_size=16, shuffle=True)
    means = []
    for _ in range(epochs):
        losses = []
        for counts, _positions in data:
            amplitude, phase = network(scale * counts[:, None].sqrt()).chunk(2, dim=1)
            patches = torch.polar(torch.exp(amplitude[:, 0]), phase[:, 0])
            loss = poisson_deviance(diffraction_intensity(illuminate(patches, probe)), counts).mean()
            adam.zero_grad()
            loss.backward()
            adam.step()
            losses.append(loss.item())
        means.append(float(np.mean(losses)))
    return means


if __name__ == "__main__":
    print("loss of each epoch:", *(f"{loss:.4g}" for loss in train([pr.load(pr.example("simulated"))])))
