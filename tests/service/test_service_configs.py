"""The configuration files of the service say what Ray Serve and the service understand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import ROOT

from ptycho_ray.errors import ConfigurationError
from ptycho_ray.service.settings import ServiceSettings

FILES = sorted((ROOT / "configs" / "serve").glob("*.yaml"))


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_configuration_can_be_deployed(path: Path) -> None:
    from ray.serve.schema import ServeDeploySchema

    from ptycho_ray.service import deployments

    config = ServeDeploySchema(**read(path))
    (application,) = config.applications
    assert application.import_path == f"{deployments.__name__}:build"
    assert {deployment.name for deployment in application.deployments} == {"Interface", "Models"}
    settings = ServiceSettings.from_args(application.args)
    (models,) = [deployment for deployment in application.deployments if deployment.name == "Models"]
    assert settings.max_replicas == models.autoscaling_config["max_replicas"]
    host = read(path)["http_options"]["host"]
    assert settings.require_token or host == "127.0.0.1"
    deployments.build(application.args)


def test_the_service_on_kubernetes_is_that_of_the_facility() -> None:
    service = read(ROOT / "configs" / "kuberay" / "rayservice.yaml")
    assert service["kind"] == "RayService"
    assert yaml.safe_load(service["spec"]["serveConfigV2"]) == read(ROOT / "configs" / "serve" / "facility.yaml")
    assert service["spec"]["rayClusterConfig"]["authOptions"] == {"mode": "token"}


def test_a_misspelt_setting_is_named() -> None:
    from ptycho_ray.service.deployments import build

    with pytest.raises(ConfigurationError, match="max_body_bytes"):
        build({"data_dir": "/tmp/x", "max_body_byte": 3})
