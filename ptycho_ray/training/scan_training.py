"""What is trained on: the groups of one scan, or of several that share one network.

Groups of all scans are numbered through: first those of the first scan, and so on.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch import Tensor, nn

from ptycho_ray.config import TrainingConfig
from ptycho_ray.data.container import PtychoDataContainer
from ptycho_ray.data.groups import create_ptycho_data_container
from ptycho_ray.data.raw_data import RawData
from ptycho_ray.errors import InputError
from ptycho_ray.models.physics_informed import PhysicsInformedModel
from ptycho_ray.models.scan_positions import ScanPositions
from ptycho_ray.models.transfer import physical_probe
from ptycho_ray.physics.likelihood import good_pixels_of
from ptycho_ray.training.initial import initial_network
from ptycho_ray.training.split import split_groups

log = logging.getLogger(__name__)

#: A scan, or the groups of one.
Scan = RawData | PtychoDataContainer

#: Among so many nearest groups the partner of a group is drawn.
MOST_OVERLAPS = 8


@dataclass(frozen=True)
class ScanTraining:
    """One scan in a training run: the network inside the scan's own physics (probe, scales), all its groups, and those
    that are trained on and held out."""

    name: str
    model: PhysicsInformedModel
    container: PtychoDataContainer
    training: PtychoDataContainer
    validation: PtychoDataContainer | None


class Partners(NamedTuple):
    """For each group of a piece another group that overlaps it, for the consistency of their objects.

    Attributes:
        photons, relative, members: of the other groups, as in a ScanBatch.
        offset: centre of the other group minus that of the own one, float32 [b, 2], pixels.
        present: whether there is one, bool [b]; where not, the group stands for itself.
    """

    photons: Tensor
    relative: Tensor
    members: Tensor
    offset: Tensor
    present: Tensor


class ScanBatch(NamedTuple):
    """Groups of one scan.

    Attributes:
        scan: its number.
        photons: [b, C, N, N].
        relative: positions relative to the group centres [b, C, 2].
        members: numbers of the patterns in the scan, int64 [b, C].
        labels: the true object at each pattern, complex64 [b, C, N, N], where the loss asks for it.
        partners: overlapping groups, where the loss asks for them.
    """

    scan: int
    photons: Tensor
    relative: Tensor
    members: Tensor
    labels: Tensor | None = None
    partners: Partners | None = None

    @property
    def size(self) -> int:
        """How many groups there are."""
        return len(self.photons)

    def each(self, change: Callable[[Tensor], Tensor]) -> ScanBatch:
        """The piece with every tensor changed (pinned, or on another device)."""
        return ScanBatch(
            self.scan,
            change(self.photons),
            change(self.relative),
            change(self.members),
            None if self.labels is None else change(self.labels),
            None if self.partners is None else Partners(*map(change, self.partners)),
        )


def scans_to_train(
    train_data: Scan | Sequence[Scan], config: TrainingConfig, initial: PhysicsInformedModel | None = None
) -> list[ScanTraining]:
    """Group every scan, hold out its validation groups, and build the network inside the physics of each."""
    containers = [create_ptycho_data_container(data, config) for data in listed(train_data)]
    names = distinct_names([container.raw.source for container in containers])
    scans: list[ScanTraining] = []
    for number, (name, container) in enumerate(zip(names, containers, strict=True)):
        generator = np.random.default_rng((config.seed, 1, number) if number else (config.seed, 1))
        learning, validation = split_groups(container, config.validation_fraction, generator)
        if validation is None and config.validation_fraction:
            log.warning(
                "%s is too small to hold out groups for validation; training goes on without", name or "the scan"
            )
        if number == 0 and initial is not None:
            model = initial
        else:
            network = scans[0].model.network if scans else None
            if network is None and config.initial_model is not None:
                network = initial_network(config)
            with _seeded(config.seed):
                model = PhysicsInformedModel(config.model, container.normalisation, physical_probe(container), network)
        model.good_pixels = good_pixels_of(container.raw.bad_pixels)
        if model.positions is None or not model.positions.knows(container.raw):
            model.positions = ScanPositions.of(container.raw) if config.positions_trainable else None
        scans.append(ScanTraining(name, model, container, learning, validation))
    return scans


def listed(data: Scan | Sequence[Scan]) -> list[Scan]:
    """Several scans as they are, a single one as a list of one."""
    return [data] if isinstance(data, RawData | PtychoDataContainer) else list(data)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Draw the first weights from ``seed`` and leave torch's own stream as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def whole_model(models: Sequence[PhysicsInformedModel]) -> nn.Module:
    """All that is trained: the one model, or the list of those that share a network."""
    return models[0] if len(models) == 1 else nn.ModuleList(models)


def require_labels(scans: Sequence[ScanTraining]) -> None:
    """InputError for the first scan whose file holds no true object, or one without structure, to learn from."""
    for scan in scans:
        raw = scan.container.raw
        truth = raw.Y if raw.Y is not None else raw.object_truth
        found = None
        if truth is None:
            found = "no true object"
        elif not np.ptp(np.abs(truth)) and not np.ptp(np.angle(truth)):
            found = "an object without any structure"
        if found:
            raise InputError(
                "training on labels needs the true object of the scan",
                file=raw.source or "the scan",
                field="objectGuess",
                found=found,
                expected="a complex image that the scan positions lie in (or Y, one patch a pattern)",
                hint="Without labels, train with model_type 'pinn' and realspace_mae_weight 0",
            )


class GroupList:
    """The groups of several containers, numbered through.

    Args:
        labels: read the true object of the scan with every group.
        partners: read an overlapping group with every group; :meth:`choose_partners` says which.
    """

    def __init__(
        self, containers: Sequence[PtychoDataContainer | None], *, labels: bool = False, partners: bool = False
    ) -> None:
        self.containers, self.labels = containers, labels
        self.sizes = [0 if container is None else len(container) for container in containers]
        self.ends = np.cumsum(self.sizes)
        self.overlaps = [overlapping_groups(c.centres_px, c.N / 4) for c in containers if c is not None and partners]
        self.partners: list[NDArray[np.int64]] = []

    def __len__(self) -> int:
        return int(self.ends[-1])

    def choose_partners(self, generator: np.random.Generator) -> None:
        """Draw for each group one of those that overlap it. Does nothing if partners are not wanted."""
        self.partners = [
            overlaps[np.arange(len(overlaps)), generator.integers(np.maximum((overlaps >= 0).sum(axis=1), 1))]
            for overlaps in self.overlaps
        ]

    def read(self, rows: NDArray[np.int64]) -> list[ScanBatch]:
        """The groups ``rows``, one piece a scan that has any."""
        scans = np.searchsorted(self.ends, rows, side="right")
        return [self._piece(int(s), rows[scans == s] - (self.ends[s] - self.sizes[s])) for s in np.unique(scans)]

    def _piece(self, scan: int, rows: NDArray[np.int64]) -> ScanBatch:
        container = self.containers[scan]
        assert container is not None
        labels, partners = None, None
        if self.labels:
            truth = container.raw.truth_patches(container.nn_indices[rows])
            assert truth is not None  # or the training would have been refused
            labels = torch.from_numpy(truth)
        if self.partners:
            chosen = self.partners[sum(size > 0 for size in self.sizes[:scan])][rows]
            others = np.where(chosen < 0, rows, chosen)
            offset = container.centres_px[others] - container.centres_px[rows]
            partners = Partners(
                *_groups(container, others), torch.from_numpy(offset.astype(np.float32)), torch.from_numpy(chosen >= 0)
            )
        return ScanBatch(scan, *_groups(container, rows), labels, partners)

    def order(self, sampling: str, generator: np.random.Generator) -> NDArray[np.int64]:
        """Which groups an epoch visits, in random order; as many as there are.

        'proportional' visits every group once. 'even' visits each scan equally often: of a large scan some of its groups,
        of a small one all of them several times.
        """
        if sampling == "proportional":
            return generator.permutation(len(self))
        wanted = np.diff(np.linspace(0, len(self), len(self.sizes) + 1).round().astype(int))
        rows = []
        for end, size, count in zip(self.ends, self.sizes, wanted, strict=True):
            rounds = [generator.permutation(size) for _ in range(-(-count // size))]
            rows.append(np.concatenate(rounds)[:count] + end - size)
        return generator.permutation(np.concatenate(rows))


def _groups(container: PtychoDataContainer, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor, Tensor]:
    photons, relative = container.batch(rows)
    return torch.from_numpy(photons), torch.from_numpy(relative), torch.from_numpy(container.nn_indices[rows])


def overlapping_groups(centres_px: NDArray[np.float64], reach_px: float) -> NDArray[np.int64]:
    """The nearest other groups of each, at most MOST_OVERLAPS and within ``reach_px``, int64 [B, MOST_OVERLAPS]; -1 fills
    up."""
    n = len(centres_px)
    distance, found = cKDTree(centres_px).query(centres_px, k=MOST_OVERLAPS + 1, distance_upper_bound=reach_px)
    near = np.isfinite(distance) & (found != np.arange(n)[:, None])
    order = np.argsort(~near, axis=1, kind="stable")[:, :MOST_OVERLAPS]
    return np.take_along_axis(np.where(near, found, -1), order, axis=1).astype(np.int64)


def distinct_names(files: Sequence[str]) -> list[str]:
    """Short names of scans for their figures: the file's, with a number where that is not enough."""
    stems = [Path(file).stem for file in files]
    often = Counter(stems)
    return [
        f"{stem or 'scan'}-{number + 1}" if often[stem] > 1 or not stem else stem for number, stem in enumerate(stems)
    ]
