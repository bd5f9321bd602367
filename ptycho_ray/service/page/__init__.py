"""The web page and the API documentation: own files, libraries that lie beside them, and one from an installed package, so
no network is needed."""

from __future__ import annotations

import base64
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.responses import FileResponse, JSONResponse, Response

from ptycho_ray.service.problems import Problem

HERE = Path(__file__).parent
STATIC = HERE / "static"
MEDIA = {".js": "text/javascript", ".css": "text/css", ".txt": "text/plain"}
#: File -> package that holds it, place in the package, media type.
LIBRARIES = {
    "swagger-ui-bundle.js": ("fastapi_offline", "static/swagger-ui-bundle.js", "text/javascript"),
    "swagger-ui.css": ("fastapi_offline", "static/swagger-ui.css", "text/css"),
}
#: Colours for values, for differences and for phases that begin anew, by their names in matplotlib.
COLOURS = {
    "linear": ("gray", "viridis", "cividis", "magma", "inferno"),
    "diverging": ("coolwarm", "PuOr"),
    "cyclic": ("twilight", "twilight_shifted", "hsv"),
}


def add_page(app: FastAPI) -> None:
    """Add the pages and the files they load."""

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return FileResponse(HERE / "index.html", media_type="text/html")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return FileResponse(HERE / "docs.html", media_type="text/html")

    @app.get("/static/colours.json", include_in_schema=False)
    async def colours() -> Response:
        return JSONResponse(colour_tables())

    @app.get("/static/{name:path}", include_in_schema=False)
    async def static(name: str) -> Response:
        if name in own_files():
            return FileResponse(
                STATIC / name, media_type=MEDIA[Path(name).suffix], headers={"Cache-Control": "no-cache"}
            )
        if name not in LIBRARIES:
            raise Problem(404, "not-found", "There is no such file.")
        package, place, media = LIBRARIES[name]
        headers = {"Cache-Control": "public, max-age=86400"}
        return FileResponse(_folder_of(package) / place, media_type=media, headers=headers)


@cache
def own_files() -> frozenset[str]:
    """The files of the page, by their place below ``static``."""
    return frozenset(str(path.relative_to(STATIC)) for path in STATIC.rglob("*") if path.suffix in MEDIA)


@cache
def colour_tables() -> dict[str, dict[str, Any]]:
    """The colours of the reports for the page: kind, and 256 times red, green, blue as base64."""
    from matplotlib import colormaps

    tables = {}
    for kind, names in COLOURS.items():
        for name in names:
            table = colormaps[name](range(256), bytes=True)[:, :3]
            tables[name] = {"kind": kind, "rgb": base64.b64encode(table.tobytes()).decode()}
    return tables


@cache
def _folder_of(package: str) -> Path:
    """Where a package lies, without loading it."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise Problem(500, "internal", f"The package {package} is not installed with the service.")
    return Path(spec.origin).parent
