"""Training the prior of the solver: a denoiser of images of complex transmissions, simulated and natural ones.

Noise of every strength, different from pixel to pixel as under the probes of a scan, is drawn anew for every image: so one
network serves any dose and any overlap. The phase of the whole is arbitrary, as in ptychography.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from skimage import data as skimage_data
from skimage.color import rgb2gray
from skimage.transform import rescale
from torch import Tensor

from ptycho_ray.config import ExecutionConfig, ModelConfig, TrainingConfig
from ptycho_ray.config.types import NonNegativeInt, PositiveFloat, PositiveInt, settings
from ptycho_ray.files import jsonable
from ptycho_ray.models.denoiser import Denoiser
from ptycho_ray.simulation.objects import make_object
from ptycho_ray.simulation.variety import LARGEST_PHASE_RANGE, OBJECT_KINDS
from ptycho_ray.training.checkpoint import LAST_CHECKPOINT, FolderCheckpoints
from ptycho_ray.training.device import resolve_device
from ptycho_ray.training.loop import Progress, Stream, Trainer

#: Pictures of scikit-image that need no download. Left out, so that tests on them show unseen ones: astronaut, brick, camera,
#: chelsea, coffee and rocket.
PICTURES = (
    "cell", "clock", "coins", "grass", "gravel", "hubble_deep_field", "immunohistochemistry", "microaneurysms", "moon",
    "page", "retina", "text",
)  # fmt: skip
#: Drawn objects of each kind, and sides that they and the reduced pictures have.
DRAWN, SIDES = 12, (112, 288)
#: Share of the images that are parts of pictures; and of those whose phase is the same picture as the amplitude.
NATURAL, TIED = 0.5, 0.3
#: Least and largest noise of an image, and the most that a pixel of it has.
NOISE, MOST_NOISE = (0.004, 0.6), 2.0
#: Share of the images that have the same noise everywhere, and of those whose noise has a grain of a few pixels.
EVEN, GRAINY = 0.4, 0.4
#: Errors are counted in units of the noise and this.
FLOOR = 0.03
TRAINING, VALIDATION = 0, 1


@settings
class PriorConfig:
    """Training of the prior."""

    width: PositiveInt = 32
    """Channels of the network at half of the resolution."""
    side: PositiveInt = 64
    """Side of the parts of images that it is trained on."""
    nepochs: PositiveInt = 12
    """Number of epochs; after each the network is evaluated on images kept apart and its state is stored."""
    images_per_epoch: PositiveInt = 6400
    """Images per epoch."""
    batch_size: PositiveInt = 16
    """Images per step."""
    validation_images: PositiveInt = 128
    """Number of images kept apart."""
    learning_rate: PositiveFloat = 1e-3
    """Initial learning rate; it falls as a cosine."""
    seed: NonNegativeInt = 0
    """Random seed: the same seed gives the same network."""
    output_dir: Path = Path("prior_outputs")
    """Folder for the prior, the checkpoint and the report."""

    def training(self) -> TrainingConfig:
        """The same for the training loop."""
        return TrainingConfig(
            model=ModelConfig(),
            nepochs=self.nepochs,
            batch_size=self.batch_size,
            scheduler="WarmupCosine",
            lr_warmup_epochs=min(1, self.nepochs - 1),
            lr_min_ratio=0.01,
            gradient_clip_val=1.0,
            intensity_scale_trainable=False,
            seed=self.seed,
            output_dir=self.output_dir,
        )


def pretrain_prior(
    config: PriorConfig,
    execution: ExecutionConfig | None = None,
    *,
    resume: bool = False,
    on_epoch: Callable[[int, dict[str, float]], None] | None = None,
) -> tuple[Denoiser, dict[str, list[float]]]:
    """Train a prior; the network, and one value an epoch of each figure.

    ``loss`` and ``val_loss`` are mean absolute errors in units of the noise, ``val_seen`` that of the images as they are shown.
    The state is stored after every epoch, and when the run is interrupted, in ``config.output_dir``.

    Raises:
        TrainingInterrupted, TrainingDiverged, InputError: as :func:`.pretraining.pretrain`.
    """
    execution = replace(execution or ExecutionConfig(), learning_rate=config.learning_rate)
    source = Images(config, execution)
    trainer = Trainer(
        source,
        config.training(),
        execution,
        checkpoints=FolderCheckpoints(config.output_dir, best_to_keep=0),
        callbacks=[] if on_epoch is None else [_Told(on_epoch)],
    )
    history = trainer.fit(config.output_dir / LAST_CHECKPOINT if resume else None)
    return source.network.cpu(), history


class _Told:
    """Tells a function of every epoch (a ``Callback`` of the training loop)."""

    def __init__(self, on_epoch: Callable[[int, dict[str, float]], None]) -> None:
        self.tell = on_epoch

    def on_step(self, progress: Progress, figures: dict[str, float], steps_in_epoch: int) -> None:
        """Epochs are told."""

    def on_epoch(self, progress: Progress, figures: dict[str, float], model: Any) -> None:
        self.tell(progress.epoch, figures)


class Noisy(NamedTuple):
    """Images without and with noise, complex [B, H, W], and its standard deviation, real [B, H, W]."""

    truth: Tensor
    seen: Tensor
    noise: Tensor

    @property
    def size(self) -> int:
        return len(self.truth)

    def each(self, change: Callable[[Tensor], Tensor]) -> Noisy:
        return Noisy(*map(change, self))


class _Trained(NamedTuple):
    """What the training loop wants to know of a network."""

    network: Denoiser
    network_dtype: None = None


class Images:
    """Noisy images drawn as they are needed (a ``TrainingSource`` of the loop); an item is (epoch, number)."""

    names = ("loss",)
    has_validation = True

    def __init__(self, config: PriorConfig, execution: ExecutionConfig) -> None:
        self.config, self.device = config, resolve_device(execution)
        self.pools = Pools.drawn(np.random.default_rng((config.seed, 2)))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.network = Denoiser(config.width).to(self.device)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # missing in torch's stubs
        self.models: Any = [_Trained(self.network)]
        self.module = self.network
        self.kept = self._drawn(VALIDATION, np.arange(config.validation_images))

    @property
    def settings(self) -> dict[str, Any]:
        return {name: jsonable(value) for name, value in asdict(self.config).items() if name != "output_dir"}

    def batches(self, epoch: int) -> list[NDArray[np.int64]]:
        count = self.config.images_per_epoch // self.config.batch_size * self.config.batch_size
        return list((epoch * count + np.arange(count)).reshape(-1, self.config.batch_size))

    def read(self, items: NDArray[np.int64]) -> list[Noisy]:
        return [self._drawn(TRAINING, items)]

    def figures(self, piece: Noisy, epoch: float) -> dict[str, Tensor]:
        with torch.autocast(self.device.type, torch.bfloat16):
            found = self.network(piece.seen, piece.noise)
        return {"loss": _error(found, piece)}

    def before_step(self, epoch: int) -> None:
        """Everything is trained from the beginning."""

    def after_step(self) -> None:
        """And it may go anywhere."""

    @torch.no_grad()
    def validate(self, stream: Stream, add_up: Callable[[Tensor], Tensor]) -> dict[str, float]:
        kept = self.kept.each(lambda tensor: tensor.to(self.device))
        found = torch.cat([self.network(*both) for both in zip(kept.seen.split(16), kept.noise.split(16), strict=True)])
        return {"loss": float(_error(found, kept)), "seen": float(_error(kept.seen, kept))}

    def state_figures(self) -> dict[str, float]:
        return {}

    def diagnose(self, history: Mapping[str, list[float]]) -> list[str]:
        return []

    def finish(self) -> None:
        self.network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]

    def _drawn(self, stream: int, numbers: NDArray[np.int64]) -> Noisy:
        drawn = [
            noisy_image(np.random.default_rng((self.config.seed, stream, int(number))), self.pools, self.config.side)
            for number in numbers
        ]
        return Noisy(*(torch.from_numpy(np.stack(part)) for part in zip(*drawn, strict=True)))


def _error(found: Tensor, piece: Noisy) -> Tensor:
    return ((found - piece.truth).abs() / (piece.noise + FLOOR)).mean()


Texture = NDArray[np.float32]


class Pools(NamedTuple):
    """What images are made of; textures lie within 0 and 1.

    Attributes:
        objects: drawn objects, each as textures of amplitude and phase [2, H, W].
        pictures: natural images [H, W] at several resolutions.
        light: light that the probes of a scan let fall, of a median of one, [H, W].
    """

    objects: list[Texture]
    pictures: list[Texture]
    light: list[Texture]

    @classmethod
    def drawn(cls, rng: np.random.Generator) -> Pools:
        objects, pictures = [], []
        for kind in OBJECT_KINDS:
            for _ in range(DRAWN):
                side = int(rng.integers(*SIDES))
                image = make_object(kind, (side, side), rng, amplitude_range=(1.0, 2.0), phase_range=(0.0, 1.0))
                objects.append(np.stack([np.abs(image) - 1, np.angle(image)]).astype(np.float32))
        for name in PICTURES:
            picture = getattr(skimage_data, name)()
            gray = (rgb2gray(picture) if picture.ndim == 3 else picture).astype(np.float64)
            gray = (gray - gray.min()) / np.ptp(gray)
            for least in (SIDES[0], 0.5 * sum(SIDES), SIDES[1], 2 * SIDES[1]):
                scale = min(1.0, least / min(gray.shape))
                pictures.append(rescale(gray, scale, anti_aliasing=True).astype(np.float32))
        return cls(objects, pictures, [_light(rng, SIDES[0]) for _ in range(4 * DRAWN)])


def noisy_image(
    rng: np.random.Generator, pools: Pools, side: int
) -> tuple[NDArray[np.complex64], NDArray[np.complex64], Texture]:
    """A part of an object [side, side] in any phase, of a root mean square of one; the same with noise; and its deviation."""
    if rng.random() < NATURAL:
        pictures = [pools.pictures[rng.integers(len(pools.pictures))] for _ in range(2)]
        amplitude, phase = (_part(picture, side, rng) for picture in pictures)
    else:
        amplitude, phase = _part(pools.objects[rng.integers(len(pools.objects))], side, rng)
    phase = amplitude if rng.random() < TIED else phase
    amplitude, phase = (1 - part if rng.random() < 0.3 else part for part in (amplitude, phase))
    highest = rng.uniform(0.4, 1)
    lowest = rng.uniform(0.1, highest)
    span = LARGEST_PHASE_RANGE * rng.uniform() ** 2
    flat = rng.integers(8)
    amplitude = np.ones_like(amplitude) if flat == 0 else lowest + (highest - lowest) * amplitude
    span = 0.0 if flat == 1 else span
    truth = amplitude * np.exp(1j * (span * phase + rng.uniform(0, 2 * np.pi)))
    truth /= np.sqrt(np.mean(amplitude**2))
    strength = np.exp(rng.uniform(*np.log(NOISE)))
    light = (
        np.ones((side, side)) if rng.random() < EVEN else _part(pools.light[rng.integers(len(pools.light))], side, rng)
    )
    noise = np.minimum(strength / np.sqrt(light), MOST_NOISE).astype(np.float32)
    grain = rng.standard_normal((2, side, side))
    if rng.random() < GRAINY:
        width = rng.uniform(0.5, 3.0)
        coarse = gaussian_filter(rng.standard_normal((2, side, side)), (0, width, width), mode="wrap")
        share = rng.uniform(0.1, 0.7)
        grain = np.sqrt(1 - share) * grain + np.sqrt(share) * coarse / coarse.std()
    seen = truth + noise * (grain[0] + 1j * grain[1])
    return truth.astype(np.complex64), seen.astype(np.complex64), noise


def _part(texture: Texture, side: int, rng: np.random.Generator) -> Texture:
    """A part [..., side, side] of a texture, turned and mirrored at random."""
    row, column = (int(rng.integers(length - side + 1)) for length in texture.shape[-2:])
    part = np.rot90(texture[..., row : row + side, column : column + side], int(rng.integers(4)), axes=(-2, -1))
    return part[..., ::-1] if rng.random() < 0.5 else part


def _light(rng: np.random.Generator, side: int) -> Texture:
    """Light of probes of some diameter, edge and overlap on a jittered grid, [side, side]."""
    diameter, overlap, edge = rng.uniform(12, 40), rng.uniform(0.0, 0.7), rng.uniform(1, 3)
    step = diameter * (1 - overlap)
    along = np.arange(-2, side / step + 3) * step
    places = np.stack(np.meshgrid(along, along, indexing="ij"), axis=-1).reshape(-1, 2)
    places += rng.uniform(-0.15, 0.15, places.shape) * step
    rows, columns = np.indices((side, side))
    light = np.full((side, side), 1e-6)
    for row, column in places:
        squared = ((rows - row) ** 2 + (columns - column) ** 2) / (diameter / 2) ** 2
        light += np.exp(-(squared**edge))
    return (light / np.median(light)).astype(np.float32)
