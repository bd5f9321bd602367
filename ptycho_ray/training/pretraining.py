"""Training a general network on simulated scans that are generated on the fly and never stored.

Every step uses a few new scans, each with its own object, probe and dose
(``ptycho_ray.simulation.variety``). Their truth is known, so the network learns from it; the physics enters through the
network's input (``probe_conditioning: retrieval``). Nothing in the network depends on the side of the patterns.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ptycho_ray.config import ExecutionConfig, ModelConfig, TrainingConfig
from ptycho_ray.config.types import NonNegativeFloat, NonNegativeInt, PatternSide, PositiveFloat, PositiveInt, settings
from ptycho_ray.data import RawData
from ptycho_ray.data.groups import create_ptycho_data_container
from ptycho_ray.errors import ConfigurationError
from ptycho_ray.files import jsonable
from ptycho_ray.models.physics_informed import PhysicsInformedModel
from ptycho_ray.models.transfer import physical_probe
from ptycho_ray.physics.agreement import in_phase, object_error
from ptycho_ray.simulation.variety import random_scan
from ptycho_ray.training.checkpoint import LAST_CHECKPOINT, FolderCheckpoints
from ptycho_ray.training.device import network_dtype, resolve_device
from ptycho_ray.training.initial import initial_network
from ptycho_ray.training.loop import Progress, Stream, Trainer

#: Streams of the seed.
TRAINING, VALIDATION = 0, 1
#: Figures of the validation are given for these doses (photons a pattern, lower ends).
DOSES = (0.0, 1e5, 1e7)
#: Part of the scans whose patterns have the side N.
SHARE_OF_N = 0.75
#: An object of less mean amplitude counts as one of this.
DARKEST = 0.1


@settings
class PretrainingConfig:
    """Pretraining on simulated scans."""

    fno_width: PositiveInt = 16
    """Channels of the network at full resolution."""
    retrieval_steps: PositiveInt = 30
    """Number of steps of the phase retrieval that the network improves."""
    N: PatternSide = 64
    """Side of most patterns; a quarter of the scans have other sides, from half to twice this value."""
    photons: tuple[PositiveFloat, PositiveFloat] = (1e3, 1e9)
    """Minimum and maximum of the photons per pattern, drawn log-uniformly."""
    nepochs: PositiveInt = 20
    """Number of epochs; after each the network is evaluated on validation scans and its state is stored."""
    patterns_per_epoch: PositiveInt = 3072
    """Patterns per epoch."""
    batch_size: PositiveInt = 16
    """Patterns per step."""
    scene_patterns: PositiveInt = 2
    """Patterns per simulated scan; a step uses batch_size / scene_patterns scans."""
    validation_scans: PositiveInt = 96
    """Number of validation scans."""
    learning_rate: PositiveFloat = 1e-3
    """Initial learning rate; it falls as a cosine."""
    lr_min_ratio: NonNegativeFloat = 0.01
    """Final learning rate as a fraction of the initial one."""
    gradient_clip_val: PositiveFloat = 1.0
    """Norm at which gradients are clipped."""
    initial_model: Path | None = None
    """'pretrained' (the network shipped with the package) or the bundle of another one, to be trained further."""
    seed: NonNegativeInt = 0
    """Random seed: the same seed gives the same network."""
    output_dir: Path = Path("pretraining_outputs")
    """Folder for the model, the checkpoint and the report."""

    def __post_init__(self) -> None:
        if self.batch_size % self.scene_patterns:
            raise ConfigurationError(
                field="batch_size",
                found=self.batch_size,
                expected=f"a multiple of scene_patterns = {self.scene_patterns}",
            )
        if self.photons[0] > self.photons[1]:
            raise ConfigurationError(field="photons", found=self.photons, expected="(least, most)")

    @property
    def steps(self) -> int:
        """Steps in an epoch."""
        return max(1, self.patterns_per_epoch // self.batch_size)

    def training(self) -> TrainingConfig:
        """The training configuration stored in the bundle of the network, and used to train it further."""
        model = ModelConfig(
            N=self.N,
            architecture="unet",
            fno_width=self.fno_width,
            probe_conditioning="retrieval",
            retrieval_steps=self.retrieval_steps,
        )
        return TrainingConfig(
            model=model,
            nepochs=self.nepochs,
            batch_size=16,
            scheduler="WarmupCosine",
            lr_warmup_epochs=min(1, self.nepochs - 1),
            lr_min_ratio=self.lr_min_ratio,
            gradient_clip_val=self.gradient_clip_val,
            intensity_scale_trainable=False,
            seed=self.seed,
            output_dir=self.output_dir,
        )


@dataclass(frozen=True)
class Pretrained:
    """A pretrained network in the physics of its last scan, and its training history.

    Attributes:
        history: one value an epoch of ``loss`` (mean absolute error of the transmission in the light), ``val_loss`` and
            ``val_retrieved_loss`` (the same for the scans kept apart: of the network, and of what it is shown), both also by
            dose, as ``val_loss/1e+05``.
    """

    model: PhysicsInformedModel
    config: TrainingConfig
    history: dict[str, list[float]]


def pretrain(
    config: PretrainingConfig,
    execution: ExecutionConfig | None = None,
    *,
    resume: bool = False,
    on_epoch: Callable[[int, dict[str, float]], None] | None = None,
) -> Pretrained:
    """Train a network on simulated scans.

    The state is stored after every epoch, and when the run is interrupted, in ``config.output_dir``; with ``resume`` training
    goes on from there as if it had not stopped.

    Raises:
        TrainingDiverged: the loss is no longer finite; the last epoch is on disk.
        InputError: nothing to resume, or a run with other settings.
        TrainingInterrupted: after Ctrl-C or SIGTERM, once the state is saved.
        ConfigurationError: ``config.initial_model`` holds another network than ``config`` describes.
    """
    training = config.training()
    execution = replace(execution or ExecutionConfig(), learning_rate=config.learning_rate)
    source = SimulationSource(config, execution)
    trainer = Trainer(
        source,
        training,
        execution,
        checkpoints=FolderCheckpoints(config.output_dir, best_to_keep=0),
        callbacks=[] if on_epoch is None else [_Told(on_epoch)],
    )
    history = trainer.fit(config.output_dir / LAST_CHECKPOINT if resume else None)
    return Pretrained(source.model.cpu(), training, history)


class _Told:
    """Tells a function of every epoch (a ``Callback`` of the training loop)."""

    def __init__(self, on_epoch: Callable[[int, dict[str, float]], None]) -> None:
        self.tell = on_epoch

    def on_step(self, progress: Progress, figures: dict[str, float], steps_in_epoch: int) -> None:
        """Epochs are told."""

    def on_epoch(self, progress: Progress, figures: dict[str, float], model: PhysicsInformedModel | None) -> None:
        self.tell(progress.epoch, figures)


class SimulatedScan(NamedTuple):
    """One item of a batch: a scan that is seen once. It reaches the device when its loss is computed."""

    scan: RawData
    size: int = 1

    def each(self, change: Callable[[Tensor], Tensor]) -> SimulatedScan:
        return self


class SimulationSource:
    """Scans that are simulated as they are needed (a ``TrainingSource`` of the loop); an item is (epoch, step, number)."""

    names = ("loss",)
    has_validation = True

    def __init__(self, config: PretrainingConfig, execution: ExecutionConfig) -> None:
        self.config, self.training = config, config.training()
        self.device = resolve_device(execution)
        self.dtype = network_dtype(execution, self.device)
        self.kept = list(scans_of(config, VALIDATION, number=config.validation_scans))
        start = None
        if config.initial_model is not None:
            start = initial_network(replace(self.training, initial_model=config.initial_model))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.model = Scene.of(self.kept[0], self.training, start, self.device).model
        self.model.network_dtype = self.dtype
        self.models, self.module = [self.model], self.model.network

    @property
    def settings(self) -> dict[str, Any]:
        return {name: jsonable(value) for name, value in asdict(self.config).items() if name != "output_dir"}

    def batches(self, epoch: int) -> list[NDArray[np.int64]]:
        scans = np.arange(self.config.batch_size // self.config.scene_patterns)
        return [
            np.stack(np.broadcast_arrays(epoch, step, scans), axis=1).astype(np.int64)
            for step in range(self.config.steps)
        ]

    def read(self, items: NDArray[np.int64]) -> list[SimulatedScan]:
        return [SimulatedScan(scan_of(self.config, TRAINING, *(int(part) for part in item))) for item in items]

    def figures(self, piece: SimulatedScan, epoch: float) -> dict[str, Tensor]:
        return {"loss": self._scene(piece.scan).network_error()}

    def before_step(self, epoch: int) -> None:
        """The physics of a simulated scan is known; nothing but the network moves."""

    def after_step(self) -> None:
        """And it may go anywhere."""

    def validate(self, stream: Stream, add_up: Callable[[Tensor], Tensor]) -> dict[str, float]:
        return _measured([self._scene(scan) for scan in self.kept])

    def state_figures(self) -> dict[str, float]:
        return {}

    def diagnose(self, history: Mapping[str, list[float]]) -> list[str]:
        return []

    def finish(self) -> None:
        self.model.network_dtype = None

    def _scene(self, scan: RawData) -> Scene:
        return Scene.of(scan, self.training, self.module, self.device, self.dtype)


def scans_of(config: PretrainingConfig, *stream: int, number: int) -> Iterator[RawData]:
    """The first ``number`` simulated scans of a stream of the seed."""
    return (scan_of(config, *stream, index) for index in range(number))


def scan_of(config: PretrainingConfig, *place: int) -> RawData:
    """The simulated scan at a place: a stream of the seed, and a number in it."""
    rng = np.random.default_rng((config.seed, *place))
    side = config.N if rng.random() < SHARE_OF_N else config.N * int(rng.choice((4, 6, 10, 12, 16))) // 64 * 8
    patterns = max(2, round(config.scene_patterns * (config.N / side) ** 2))
    return random_scan(rng, max(32, side), patterns, config.photons)


@dataclass(frozen=True)
class Scene:
    """The network in the physics of a simulated scan.

    Attributes:
        photons: float32 [n, 1, N, N].
        truth: the true object at each pattern, complex64 [n, 1, N, N].
    """

    model: PhysicsInformedModel
    photons: Tensor
    truth: Tensor

    @classmethod
    def of(
        cls,
        scan: RawData,
        training: TrainingConfig,
        network: nn.Module | None,
        device: torch.device,
        dtype: torch.dtype | None = None,
    ) -> Scene:
        """``network`` in the physics of ``scan``; a new network if None. ``dtype`` is that of its convolutions."""
        training = replace(training, model=replace(training.model, N=scan.N), n_groups=len(scan))
        container = create_ptycho_data_container(scan, training)
        photons, _ = container.batch(np.arange(len(container)))
        truth = scan.truth_patches(container.nn_indices)
        assert truth is not None  # every simulated scan has one
        model = PhysicsInformedModel(training.model, container.normalisation, physical_probe(container), network)
        model.network_dtype = dtype
        return cls(model.to(device), torch.from_numpy(photons).to(device), torch.from_numpy(truth).to(device))

    def network_error(self) -> Tensor:
        """The error of the network, see :meth:`error`; while it is trained, of its objects after the steps that follow."""
        patches = self.model.transmission_patches(self.photons)
        return self.error(self.model.settled(self.photons, patches) if self.model.training else patches)

    def error(self, patches: Tensor) -> Tensor:
        """Mean absolute error of patches where the light is, each in phase with its truth, relative to the mean amplitude of
        the truth there."""
        weight = self.model.overlap_weight()
        error = object_error(in_phase(patches, self.truth, weight), self.truth, weight)
        level = (weight * self.truth.abs()).sum(dim=(-2, -1)) / weight.sum()
        return (error / level.clamp_min(DARKEST)).mean()


@torch.no_grad()
def _measured(scenes: Sequence[Scene]) -> dict[str, float]:
    """Errors of the network and of what it is shown, over all scenes and by dose."""
    for scene in scenes:
        scene.model.eval()
    errors = np.array(
        [
            [float(scene.network_error()), float(scene.error(scene.model.retrieved(scene.photons)[0]))]
            for scene in scenes
        ]
    )
    dose = np.array([scene.model.normalisation.mean_photons for scene in scenes])
    figures = {}
    for low, high in [(0.0, math.inf), *itertools.pairwise((*DOSES, math.inf))]:
        some = (dose >= low) & (dose < high)
        if some.any():
            of_dose = "" if high - low == math.inf and low == 0 else f"/{low:.0e}"
            figures[f"loss{of_dose}"], figures[f"retrieved_loss{of_dose}"] = errors[some].mean(axis=0).tolist()
    return figures
