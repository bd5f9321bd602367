"""Write the page from which the versions of the documentation are reached: ``python docs/list_versions.py docs/build``.

A version is a folder of that name; the newest comes first. Who keeps the site keeps the folders of former versions in it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from packaging.version import InvalidVersion, Version

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>ptycho_ray: documentation</title></head>
<body><h1>ptycho_ray</h1><p>Documentation of version</p>
<ul>
{lines}
</ul></body></html>
"""


def versions_in(site: Path) -> list[str]:
    """The versions that are there, the newest first."""
    found = {}
    for page in site.glob("*/index.html"):
        try:
            found[Version(page.parent.name)] = page.parent.name
        except InvalidVersion:  # another folder
            continue
    return [found[version] for version in sorted(found, reverse=True)]


def write_list(site: Path) -> None:
    lines = [f'<li><a href="{name}/index.html">{name}</a></li>' for name in versions_in(site)]
    (site / "index.html").write_text(PAGE.format(lines="\n".join(lines)), encoding="utf-8")


if __name__ == "__main__":
    write_list(Path(sys.argv[1]))
