"""The web page and the API documentation: own files, and libraries from installed packages, so no network is needed."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import FileResponse, Response

from ptycho_ray.service.problems import Problem

HERE = Path(__file__).parent
OWN = {"page.js": "text/javascript", "page.css": "text/css", "docs.js": "text/javascript"}
#: File -> package that holds it, place in the package, media type.
LIBRARIES = {
    "plotly.min.js": ("plotly", "package_data/plotly.min.js", "text/javascript"),
    "swagger-ui-bundle.js": ("fastapi_offline", "static/swagger-ui-bundle.js", "text/javascript"),
    "swagger-ui.css": ("fastapi_offline", "static/swagger-ui.css", "text/css"),
}


def add_page(app: FastAPI) -> None:
    """Add the pages and the files they load."""

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return FileResponse(HERE / "index.html", media_type="text/html")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return FileResponse(HERE / "docs.html", media_type="text/html")

    @app.get("/static/{name}", include_in_schema=False)
    async def static(name: str) -> Response:
        if name in OWN:
            return FileResponse(HERE / name, media_type=OWN[name])
        if name not in LIBRARIES:
            raise Problem(404, "not-found", "There is no such file.")
        package, place, media = LIBRARIES[name]
        headers = {"Cache-Control": "public, max-age=86400"}
        return FileResponse(_folder_of(package) / place, media_type=media, headers=headers)


@cache
def _folder_of(package: str) -> Path:
    """Where a package lies, without loading it."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise Problem(500, "internal", f"The package {package} is not installed with the service.")
    return Path(spec.origin).parent
