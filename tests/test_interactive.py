"""The program in a few words, and how things show themselves in Jupyter."""

from __future__ import annotations

import html.parser
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import ptycho_ray as pr
from ptycho_ray.errors import ConfigurationError


@pytest.fixture(scope="module")
def image(small_scan):
    return pr.reconstruct(
        small_scan, nepochs=2, n_filters_scale=1, learning_rate=2e-3, validation_fraction=0.2, progress=False
    )


def check_html(text: str, *words: str) -> None:
    """Balanced, with these words and pictures inside, and nothing from elsewhere."""
    opened: list[str] = []

    class Parser(html.parser.HTMLParser):
        def handle_starttag(self, tag, attrs):
            if tag != "img":
                opened.append(tag)
            assert all(not str(value).startswith("http") for name, value in attrs if name in ("src", "href"))

        def handle_endtag(self, tag):
            assert opened.pop() == tag

    Parser().feed(text)
    assert not opened
    assert "src='data:image/png;base64," in text
    for word in words:
        assert word in text


def test_a_scan_shows_itself(small_scan, tmp_path):
    small_scan.to_file(tmp_path / "scan.npz")
    check_html(pr.load(tmp_path / "scan.npz")._repr_html_(), "Scan", "patterns", "60", "linear overlap of neighbours")
    check_html(pr.probe(small_scan)._repr_html_(), "Probe", "sum |P|^2")
    assert repr(pr.probe(small_scan)) == "Probe(1 modes of 32x32)"


def test_names_are_text_and_no_markup(small_scan):
    assert pr.RawData is type(small_scan)
    scan = small_scan.select(np.arange(len(small_scan)))
    scan.source = "<script>x</script>.npz"
    assert "<script>" not in scan._repr_html_()


def test_train_and_reconstruct_in_one_call(image, small_scan):
    assert image.bundle.config.nepochs == 2
    assert len(image.history["loss"]) == 2
    assert image.image.dtype == np.complex64
    np.testing.assert_allclose(image.amplitude * np.exp(1j * image.phase), image.image, atol=1e-5)
    check_html(image._repr_html_(), "Reconstruction", "cnn")
    figures = image.figures_of_merit()
    of_patterns = {"r_factor", "r_factor_of_a_flat_object", "r_factor_of_noise", "times_noise"}
    assert set(figures) == of_patterns | {"amplitude_mae", "phase_mae"}
    assert repr(image) == f"Reconstruction({image.image.shape[0]}x{image.image.shape[1]} pixels of 60 patterns, '')"


def test_another_scan_with_the_same_network(image, other_scan, tmp_path):
    seen = pr.reconstruct(other_scan, model=image)
    assert seen.history == {}
    place = image.save_model(tmp_path / "model")
    other_scan.to_file(tmp_path / "other.npz")
    again = pr.reconstruct(tmp_path / "other.npz", model=place)
    np.testing.assert_allclose(again.image, seen.image, atol=1e-5)
    check_html(again._repr_html_(), "other.npz")
    assert pr.load(tmp_path / "other.npz").N == 32


def test_settings_beside_a_model_are_refused(image, small_scan):
    with pytest.raises(ConfigurationError, match="nepochs"):
        pr.reconstruct(small_scan, model=image, nepochs=3)
    with pytest.raises(ConfigurationError, match="nepoch"):
        pr.reconstruct(small_scan, nepoch=3)


def test_images_are_saved(image, tmp_path):
    from ptycho_ray.data.formats.ptychodus_product import read_product

    with np.load(image.save(tmp_path / "folder")) as saved:
        np.testing.assert_array_equal(saved["object"], image.image)
    np.testing.assert_array_equal(read_product(image.save(tmp_path / "product.h5")).object[0], image.image)


def test_the_names_are_loaded_late():
    code = "import ptycho_ray as pr, sys; assert 'load' in dir(pr); print('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


NOTEBOOKS = Path(__file__).parents[1] / "docs" / "notebooks"


@pytest.mark.parametrize("name", ["quick_start.ipynb", "own_data.ipynb", "sweep.ipynb"])
def test_a_notebook_has_what_it_shows(name):
    """Executed from top to bottom, without errors, and small."""
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
    notebook = nbformat.read(NOTEBOOKS / name, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not any(output.output_type == "error" for cell in cells for output in cell.outputs)
    assert (NOTEBOOKS / name).stat().st_size < 700_000


@pytest.mark.slow
@pytest.mark.parametrize("name", ["quick_start.ipynb", "own_data.ipynb", "sweep.ipynb"])
def test_a_notebook_runs(name, monkeypatch):
    pytest.importorskip("nbclient", reason="nbclient is not installed")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    monkeypatch.syspath_prepend(str(NOTEBOOKS))
    from execute import execute

    notebook = execute(NOTEBOOKS / name)
    assert all(cell.outputs or "import" in cell.source or "=" in cell.source for cell in notebook.cells[1::2])
