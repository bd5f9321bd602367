"""The documentation as a site, its gallery, and the files of the project's habits."""

from __future__ import annotations

import datetime
import re
import runpy
import shutil
import subprocess
import sys

import pytest
import yaml
from helpers import ROOT

import ptycho_ray

GALLERY = sorted(path.name for path in (ROOT / "docs/gallery").glob("*.md") if path.name != "index.md")


def test_the_reference_is_what_the_program_says():
    for name, page in runpy.run_path(str(ROOT / "docs/write_reference.py"))["PAGES"].items():
        text = (ROOT / "docs/reference" / name).read_text(encoding="utf-8")
        assert text == page(), "run python docs/write_reference.py"


def test_the_site_is_built_without_a_warning(tmp_path):
    site = tmp_path / ptycho_ray.__version__
    words = [sys.executable, "-m", "sphinx", "-qW", "--keep-going", "-b", "html", str(ROOT / "docs"), str(site)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    physics = (site / "physics.html").read_text(encoding="utf-8")
    assert "<math" in physics
    assert 'href="../index.html"' in physics  # the list of versions
    assert 'href="../../index.html"' in (site / "reference/commands.html").read_text(encoding="utf-8")
    for page in site.rglob("*.html"):  # nothing is fetched from another host
        for tag in re.findall(
            r"<(?:script|link|img)[^>]*(?:src|href)=\"https?://[^>]*>", page.read_text(encoding="utf-8")
        ):
            assert 'rel="canonical"' in tag, (page.name, tag)


def test_the_versions_of_the_site_are_listed_the_newest_first(tmp_path):
    for name in ("0.9.0", "0.10.0", "images"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "index.html").touch()
    runpy.run_path(str(ROOT / "docs/list_versions.py"))["write_list"](tmp_path)
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert re.findall(r'href="([^"]+)"', page) == ["0.10.0/index.html", "0.9.0/index.html"]


@pytest.mark.parametrize("name", GALLERY)
def test_a_page_of_the_gallery_is_shown_and_has_its_pictures(name):
    assert f"({name})" in (ROOT / "docs/gallery/index.md").read_text(encoding="utf-8")
    pictures = runpy.run_path(str(ROOT / "docs/gallery/execute.py"))["PICTURE"].findall(
        (ROOT / "docs/gallery" / name).read_text(encoding="utf-8")
    )
    assert pictures
    for _, picture in pictures:
        assert (ROOT / "docs/gallery" / picture).stat().st_size > 5000


@pytest.mark.slow
@pytest.mark.parametrize("name", GALLERY)
def test_a_page_of_the_gallery_runs(name, tmp_path):
    try:
        runpy.run_path(str(ROOT / "docs/gallery/execute.py"))["execute"](ROOT / "docs/gallery" / name, tmp_path)
    except subprocess.CalledProcessError as error:
        pytest.fail(f"{error.cmd}\n{error.stdout}\n{error.stderr}")


def test_a_release_sets_the_version_wherever_it_stands(tmp_path):
    release = runpy.run_path(str(ROOT / ".ci/release.py"))
    for place in release["PLACES"]:
        for path in ROOT.glob(place):
            copy = tmp_path / path.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)
    changed = release["set_version"](tmp_path, ptycho_ray.__version__, "9.8.7")
    assert "version: 9.8.7" in (tmp_path / "CITATION.cff").read_text(encoding="utf-8")
    assert not any(f"ptycho-ray:{ptycho_ray.__version__}" in path.read_text(encoding="utf-8") for path in changed)
    with pytest.raises(LookupError, match="does not say"):
        release["set_version"](tmp_path, ptycho_ray.__version__, "9.8.8")
    shutil.copy(ROOT / "CHANGELOG.md", tmp_path)
    day = datetime.date(2027, 1, 2)
    release["date_changelog"](tmp_path / "CHANGELOG.md", "9.8.7", day)
    assert "## Unreleased\n\n## 9.8.7 (2027-01-02)\n" in (tmp_path / "CHANGELOG.md").read_text(encoding="utf-8")
    with pytest.raises(LookupError, match="nothing under Unreleased"):
        release["date_changelog"](tmp_path / "CHANGELOG.md", "9.8.9", day)


@pytest.mark.parametrize("path", sorted((ROOT / ".github").rglob("*.yml")), ids=lambda path: path.name)
def test_the_forms_and_workflows_say_what_is_there(path):
    thing = yaml.safe_load(path.read_text(encoding="utf-8"))
    if path.parent.name == "ISSUE_TEMPLATE":
        assert {"name", "description", "body"} <= set(thing)
        return
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    lines = [step["run"] for job in thing["jobs"].values() for step in job["steps"] if "run" in step]
    for target in re.findall(r"make ([a-z-]+)", "\n".join(lines)):
        assert target in targets


def test_the_citation_has_the_version_of_the_package():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert str(citation["version"]) == ptycho_ray.__version__
    assert citation["license"] == "BSD-3-Clause"
