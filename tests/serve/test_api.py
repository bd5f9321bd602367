"""The HTTP interface of a running service."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from ptycho_ray.bundle import load_bundle
from ptycho_ray.workflow import load_data, reassemble_cdi_image


def test_a_scan_goes_in_and_its_image_comes_out(service: Any, scan_file: Path) -> None:
    answer = httpx.post(
        f"{service.url}/v1/reconstructions",
        content=scan_file.read_bytes(),
        headers={"Content-Type": "application/octet-stream"},
        timeout=60,
    )
    assert answer.status_code == 200, answer.text
    with np.load(io.BytesIO(answer.content), allow_pickle=False) as result:
        image, origin = result["object"], result["origin_px"]
    bundle = load_bundle(service.model_root / "tiny" / "1")
    _, _, expected = reassemble_cdi_image(load_data(scan_file), bundle.config, model=bundle.model, keep_patches=False)
    np.testing.assert_allclose(image, expected["stitched"].image, atol=1e-5)
    assert tuple(origin) == expected["stitched"].origin_px
