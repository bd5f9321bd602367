"""Published rows beside ours, by contract and line, as their authors state them: one seed each."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """A published row; figures in the reference's metric, PSNR brought to the peak 1 (48.13 dB less), None if not stated."""

    row: str
    line: str
    source: str
    amplitude_mae: float | None = None
    phase_mae: float | None = None
    amplitude_ssim: float | None = None
    phase_ssim: float | None = None
    amplitude_psnr: float | None = None


PAPER = "PtychoPINN, paper table"
STUDY = "PtychoPINN, probe study"
SINGLE = "arXiv 2602.21361"
PUBLISHED: dict[str, tuple[Published, ...]] = {
    "lines64": (Published("PtychoPINN cnn (TensorFlow), 50 epochs", "test", "run by us", 0.0188, 0.0562, 0.610, 0.978),),
    "lines128": (
        Published("SRU-Net, fixed residual scale: best amplitude", "test", PAPER, 0.0246, 0.0773, 0.990, 0.994),
        Published("SRU-Net, encoder convolution only: best phase", "test", PAPER, 0.0323, 0.0571, 0.982, 0.995),
        Published("SRU-Net, encoder spectral only", "test", PAPER, 0.0252, 0.0615, 0.990, 0.996),
        Published("SRU-Net, skip-add", "test", PAPER, 0.0264, 0.0610, 0.989, 0.994),
        Published("SRU-Net (9.0 M parameters, 1067 s on an RTX 3090)", "test", PAPER, 0.0269, 0.0721, 0.988, 0.995),
        Published("FFNO, 24 blocks", "test", PAPER, 0.0565, 0.1217, 0.944, 0.974),
        Published("CNN (TensorFlow)", "test", PAPER, 0.1232, 0.7863, 0.733, 0.264),
    ),
    "natural128_wheel": (
        Published("supervised CNN: best published", "no_noise", "PtychoPINN, 1000 patches", 0.0716, 0.3954, 0.486, 0.646),
        Published("constant image, all 1000 patches", "no_noise", "computed by us", 0.0716, 0.3954, 0.487, 0.646),
        Published("FFNO (PINN)", "no_noise", "PtychoPINN, 1000 patches", 0.1567, 0.3961, 0.059, 0.604),
    ),
    "single_shot": (
        Published("PtychoPINN, one pattern, same split", "custom", SINGLE, None, None, 0.943, None, 22.61),
        Published("PyNX HIO/ER, support at 0.05 of the probe", "custom", SINGLE, None, None, 0.005, None, -9.20),
        Published("PtychoPINN, one pattern, old split", "custom", SINGLE, 0.072, None, 0.904, None, 20.8),
        Published("PtychoPINN, 4 patterns a group, old split", "custom", SINGLE, 0.040, None, 0.968, None, 24.9),
        Published("PtychoPINN, one pattern, old split", "ideal", SINGLE, 0.185, None, 0.620, None, 12.6),
        Published("PtychoPINN, 4 patterns a group, old split", "ideal", SINGLE, 0.052, None, 0.952, None, 23.2),
    ),
    "wrong_probe": tuple(
        Published("PtychoPINN, trained with this probe", line, STUDY, None, None, ssim, None, round(psnr - 48.13, 1))
        for line, ssim, psnr in (
            ("base", 0.924, 69.8), ("curvature_0.75", 0.553, 60.1), ("curvature_0.50", 0.068, 47.8),
            ("curvature_0.25", 0.038, 48.9), ("blur_0.5px", 0.901, 68.7), ("blur_1px", 0.864, 67.2),
            ("blur_2px", 0.785, 65.0), ("noise_0.1pi", 0.876, 67.6), ("noise_0.2pi", 0.643, 62.2),
            ("noise_0.4pi", 0.017, 45.1),
        )
    ),
}  # fmt: skip
#: Rows that are too long for two cores: contract -> what, command.
FOR_A_GPU = {
    "lines128": (
        "trained by the contract, 40 epochs of 8978 patterns",
        "python -m benchmarks.field train lines128 --epochs 40 --output-dir MODEL && "
        "python -m benchmarks.field run lines128/trained --bundle MODEL",
    ),
}
