"""The network ``cnn`` against the reference: layers, parameter counts, and outputs with the golden weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ptycho_ray.config import ModelConfig
from ptycho_ray.models.cnn import ConvolutionalAutoencoder
from ptycho_ray.physics.diffraction import diffraction_intensity, illuminate
from ptycho_ray.physics.likelihood import amplitude, amplitude_absolute_error, poisson_negative_log_likelihood
from ptycho_ray.physics.merging import extract_patches, merge_central_mask


def keras_order(network: ConvolutionalAutoencoder) -> dict[str, torch.nn.Conv2d]:
    """Our convolutions under the names Keras gives them at N = 64: each decoder makes its two heads before its body."""
    layers: list[torch.nn.Conv2d] = []
    for block in network.encoder:
        layers += [block.first, block.second]
    for decoder in (network.amplitude_decoder, network.phase_decoder):
        layers += [decoder.centre_head, decoder.border_head]
        for block in [*decoder.blocks, decoder.border_block]:
            layers += [block.first, block.second]
    return {"conv2d" if i == 0 else f"conv2d_{i}": layer for i, layer in enumerate(layers)}


def load_golden_weights(network: ConvolutionalAutoencoder, order: list[dict]) -> None:
    layers = keras_order(network)
    assert len(layers) == len(order)
    for entry in order:
        layer, shape = layers[entry["name"]], entry["kernel"]
        kernel = np.random.default_rng(1000 * entry["index"] + 4).standard_normal(shape) * np.sqrt(
            2 / np.prod(shape[:-1])
        )
        bias = np.random.default_rng(1000 * entry["index"] + 1).standard_normal(shape[-1]) * 0.01
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(kernel.transpose(3, 2, 0, 1).astype(np.float32)))
            layer.bias.copy_(torch.from_numpy(bias.astype(np.float32)))


@pytest.mark.parametrize("gridsize", [1, 2])
def test_whole_forward_pass(golden, gridsize):
    data = golden(f"g2_forward_gs{gridsize}.npz", large=gridsize > 1)
    network = ConvolutionalAutoencoder(ModelConfig(N=64, gridsize=gridsize)).eval()
    load_golden_weights(network, golden(f"g2_forward_gs{gridsize}_weight_order.json", large=gridsize > 1))

    def compare(actual: torch.Tensor, name: str, tolerance: float) -> None:
        expected = torch.from_numpy(np.moveaxis(data[name], -1, 1).copy())
        worst = float((actual[: len(expected)] - expected).abs().max() / expected.abs().max())
        assert worst <= tolerance, f"{name}: relative difference {worst:.2g}"

    scale = float(data["intensity_scale"])
    x = torch.from_numpy(np.moveaxis(data["X"], -1, 1).copy()) / scale
    with torch.no_grad():
        patches = torch.polar(*network(x))
        compare(patches, "obj", 1e-4)
        relative = torch.from_numpy(-data["coords"][:, 0].transpose(0, 2, 1)[..., ::-1].copy())
        canvas = merge_central_mask(patches, relative - relative.mean(dim=(0, 1)), data["padded_obj"].shape[1])
        compare(canvas[:, None], "padded_obj", 1e-4)
        exit_waves = illuminate(
            extract_patches(canvas, relative, 64), torch.from_numpy(data["probe_set"][..., 0])[None]
        )
        intensity = diffraction_intensity(exit_waves) * scale**2
        compare(amplitude(intensity), "pred_amp", 1e-4)
        compare(intensity, "pred_intensity", 1e-4)
        counts = (x * scale).square()
        nll = poisson_negative_log_likelihood(intensity, counts).mean()
        assert float(nll) == pytest.approx(float(data["nll_mean"]), rel=1e-5)
        assert float(amplitude_absolute_error(intensity, x * scale).mean()) == pytest.approx(
            float(data["mae_mean"]), rel=1e-4
        )


def test_parameter_counts_and_layers(golden):
    tables = golden("g_model_tables.json")
    assert len(tables) == 12
    for name, table in tables.items():
        side, gridsize, probe_big, object_big = (
            name.split("_gs")[0],
            name.split("_gs")[1][0],
            *(part.startswith("True") for part in (name.split("probe_big")[1], name.split("object_big")[1])),
        )
        config = ModelConfig(N=int(side[1:]), gridsize=int(gridsize), probe_big=probe_big, object_big=object_big)
        network = ConvolutionalAutoencoder(config)
        assert sum(p.numel() for p in network.parameters()) == table["total_params"], name
        ours = sorted(tuple(p.shape) for p in network.parameters() if p.ndim == 4)
        theirs = sorted(
            tuple(np.array(layer["weights"]["kernel"])[[3, 2, 0, 1]]) for layer in table["layers"] if layer["params"]
        )
        assert ours == theirs, name


@pytest.mark.parametrize(
    ("n", "f", "gridsize", "probe_big", "parameters"),
    [
        (64, 1, 1, True, 585_244),
        (64, 1, 2, False, 566_184),
        (256, 1, 1, True, 3_229_924),
        (256, 2, 2, False, 12_909_832),
    ],
)
def test_more_parameter_counts(n, f, gridsize, probe_big, parameters):
    config = ModelConfig(N=n, n_filters_scale=f, gridsize=gridsize, probe_big=probe_big)
    assert sum(p.numel() for p in ConvolutionalAutoencoder(config).parameters()) == parameters


@pytest.mark.parametrize("n", [32, 40, 48, 72, 96, 136])
@pytest.mark.parametrize("pad_object", [True, False])
def test_any_side_divisible_by_eight(n, pad_object):
    config = ModelConfig(N=n, gridsize=3 if n == 32 else 1, n_filters_scale=1, pad_object=pad_object)
    amplitude_image, phase = ConvolutionalAutoencoder(config)(torch.rand(2, config.gridsize**2, n, n))
    assert amplitude_image.shape == phase.shape == (2, config.gridsize**2, n, n)
    assert torch.isfinite(amplitude_image).all()
    assert phase.abs().max() <= np.pi + 1e-6


def test_without_probe_big_the_border_is_empty():
    network = ConvolutionalAutoencoder(ModelConfig(N=32, n_filters_scale=1, probe_big=False))
    amplitude_image, _ = network(torch.rand(1, 1, 32, 32))
    assert amplitude_image[..., 8:24, 8:24].min() > 0
    amplitude_image[..., 8:24, 8:24] = 0
    assert amplitude_image.abs().max() == 0
