"""Routes of models and demos."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Query

from ptycho_ray.service.demos import DEMOS
from ptycho_ray.service.dependencies import Here, Reader
from ptycho_ray.service.models import Model
from ptycho_ray.service.problems import Problem
from ptycho_ray.service.schemas import ModelDetails, ModelSummary, problems
from ptycho_ray.service.service import Service

router = APIRouter(tags=["models"])


@router.get("/v1/models", responses=problems())
async def list_models(service: Here, caller: Reader) -> list[ModelSummary]:
    """Every version of every model, the newest first; broken ones with the reason."""
    return await asyncio.to_thread(lambda: [_summary(service, model) for model in service.models.all()])


@router.get("/v1/models/{name}", responses=problems(404, 422))
async def show_model(
    name: str, service: Here, caller: Reader, version: Annotated[str | None, Query(max_length=100)] = None
) -> ModelDetails:
    """Architecture, training data and figures of a model: of its newest good version if none is named."""
    return await asyncio.to_thread(_details, service, name, version)


@router.get("/v1/demos", responses=problems())
async def list_demos(caller: Reader) -> dict[str, str]:
    """Demo scans by name; each is simulated to suit the model that reconstructs it."""
    return DEMOS


def _summary(service: Service, model: Model) -> ModelSummary:
    checked = service.models.check(model)
    if checked.problem is not None or checked.manifest is None:
        reason = None if checked.problem is None else checked.problem.detail
        return ModelSummary(name=model.name, version=model.version, state="broken", problem=reason)
    config = checked.manifest["config"]["model"]
    return ModelSummary(
        name=model.name,
        version=model.version,
        state="good",
        N=checked.side,
        sides=checked.sides,
        gridsize=config["gridsize"],
        architecture=config["architecture"],
    )


def _details(service: Service, name: str, version: str | None) -> ModelDetails:
    versions = [model for model in service.models.all() if model.name == name]
    chosen = [model for model in versions if version in (None, model.version)]
    if not chosen:
        raise Problem(404, "not-found", "There is no such model.", {"field": "name"})
    good = next((model for model in chosen if service.models.check(model).problem is None), chosen[0])
    manifest = service.models.check(good).manifest
    kept = {} if manifest is None else {key: manifest[key] for key in ("config", "normalisation", "created_at")}
    if manifest is not None:
        history = manifest["history"]
        kept["figures"] = {figure: values[-1] for figure, values in history.items() if values}
        kept["provenance"] = _without_folders(manifest["provenance"])
        kept["config"] = _without_folders(manifest["config"])
    summary = _summary(service, good).model_dump()
    return ModelDetails(**summary, **kept, versions=[model.version for model in versions])


def _without_folders(value: Any) -> Any:
    """Absolute paths shortened to their last part, so as not to reveal the server's folders."""
    if isinstance(value, dict):
        return {key: _without_folders(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_folders(item) for item in value]
    return value.rpartition("/")[2] if isinstance(value, str) and value.startswith("/") else value
