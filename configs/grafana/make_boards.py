"""Write the boards of this folder for Grafana 10.1 or newer, from the list of metrics below.

    python configs/grafana/make_boards.py

Grafana loads them by "Dashboards > New > Import", or from a folder that a provider of its provisioning names. The source of
data is a Prometheus that reads Ray's metrics (`ray metrics launch-prometheus` writes its configuration) and /metrics of the
service.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from grafana_foundation_sdk.builders import dashboard, prometheus, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import DataSourceRef

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Panel:
    """A panel: its title, the unit of its axis in Grafana's words, and what it shows: (expression, legend) pairs."""

    title: str
    unit: str
    shows: tuple[tuple[str, str], ...]
    text: str = ""


def quantile(q: str, histogram: str, by: str) -> str:
    return f"histogram_quantile({q}, sum by (le, {by}) (rate({histogram}_bucket[5m])))"


GPUS = Panel(
    "GPUs", "percent", (("ray_node_gpus_utilization", "{{instance}} GPU {{GpuIndex}}"),), "0: nothing computes there"
)
CPUS = Panel("Processors", "percent", (("ray_node_cpu_utilization", "{{instance}}"),))
MEMORY = Panel(
    "Memory",
    "percentunit",
    (("ray_node_mem_used / ray_node_mem_total", "{{instance}}"),),
    "Ray ends workers above 0.95",
)

BOARDS: dict[str, tuple[str, tuple[Panel, ...]]] = {
    "training": (
        "ptycho_ray: training",
        (
            Panel(
                "Loss", "none", (("ray_ptycho_ray_loss", "{{run}}"), ("ray_ptycho_ray_val_loss", "{{run}}, held out"))
            ),
            Panel("Loss of each step", "none", (("ray_ptycho_ray_step_loss", "{{run}}"),)),
            Panel("Learning rate", "sci", (("ray_ptycho_ray_learning_rate", "{{run}}"),)),
            Panel("Epochs", "none", (("ray_ptycho_ray_epochs", "{{run}}"),)),
            Panel(
                "Time of an epoch",
                "s",
                (("deriv(ray_ptycho_ray_training_seconds[10m]) / deriv(ray_ptycho_ray_epochs[10m])", "{{run}}"),),
                "seconds of training an epoch, over ten minutes",
            ),
            GPUS,
            CPUS,
            MEMORY,
        ),
    ),
    "sweep": (
        "ptycho_ray: sweeps",
        (
            Panel("Trials", "none", (("ray_ptycho_ray_trials", "{{run}}: {{state}}"),)),
            Panel("Best so far", "none", (("ray_ptycho_ray_best_objective", "{{run}}: {{objective}}"),)),
            Panel(
                "Trials an hour",
                "none",
                (('3600 * deriv(ray_ptycho_ray_trials{state="finished"}[30m])', "{{run}}"),),
            ),
            GPUS,
            CPUS,
            MEMORY,
        ),
    ),
    "service": (
        "ptycho_ray: service",
        (
            Panel(
                "Requests a second",
                "reqps",
                (("sum by (route, status) (rate(ptycho_ray_requests_total[5m]))", "{{route}} {{status}}"),),
            ),
            Panel(
                "Failures a second",
                "reqps",
                (('sum by (route) (rate(ptycho_ray_requests_total{status=~"5.."}[5m]))', "{{route}}"),),
            ),
            Panel(
                "Response time",
                "s",
                (
                    (quantile("0.5", "ptycho_ray_request_seconds", "route"), "{{route}} p50"),
                    (quantile("0.99", "ptycho_ray_request_seconds", "route"), "{{route}} p99"),
                ),
            ),
            Panel(
                "Reconstructions",
                "none",
                (("max by (state) (ptycho_ray_jobs)", "{{state}}"), ("max(ptycho_ray_jobs_limit)", "at most")),
            ),
            Panel("Oldest that waits", "s", (("max(ptycho_ray_oldest_waiting_seconds)", "waiting"),)),
            Panel(
                "Attempts lost with their replica, an hour",
                "none",
                (("3600 * sum(rate(ptycho_ray_attempts_lost_total[1h]))", "attempts"),),
            ),
            Panel(
                "Free space of the data folder",
                "bytes",
                (("min(ptycho_ray_disk_free_bytes)", "free"), ("max(ptycho_ray_disk_reserve_bytes)", "kept free")),
            ),
            Panel("Draining", "none", (("max(ptycho_ray_draining)", "1: no new work is accepted"),)),
            Panel(
                "Replicas that are well",
                "none",
                (("sum by (deployment) (ray_serve_deployment_replica_healthy)", "{{deployment}}"),),
            ),
            Panel(
                "Waiting in Ray Serve",
                "none",
                (("sum by (deployment) (ray_serve_deployment_queued_queries)", "{{deployment}}"),),
            ),
            GPUS,
            MEMORY,
        ),
    ),
    "live": (
        "ptycho_ray: live",
        (
            Panel("Open streams", "none", (("sum(ptycho_ray_streams)", "streams"),)),
            Panel("Frames a second", "none", (("sum(rate(ptycho_ray_stream_frames_total[1m]))", "frames/s"),)),
            CPUS,
            MEMORY,
        ),
    ),
}


def board(name: str) -> str:
    """The JSON of a board: two panels in a row, the source of data a choice of the reader's."""
    title, panels = BOARDS[name]
    source = DataSourceRef(type_val="prometheus", uid="${source}")
    made = (
        dashboard.Dashboard(title)
        .uid(f"ptycho-ray-{name}")
        .tags(["ptycho_ray"])
        .refresh("10s")
        .time("now-1h", "now")
        .with_variable(dashboard.DatasourceVariable("source").label("Prometheus").type("prometheus"))
    )
    for panel in panels:
        drawn = (
            (timeseries.Panel().title(panel.title).description(panel.text).unit(panel.unit).datasource(source))
            .span(12)
            .height(8)
        )
        for number, (expression, legend) in enumerate(panel.shows):
            drawn = drawn.with_target(
                prometheus.Dataquery().expr(expression).legend_format(legend).ref_id("ABC"[number])
            )
        made = made.with_panel(drawn)
    return JSONEncoder(sort_keys=True, indent=1).encode(made.build()) + "\n"


if __name__ == "__main__":
    for name in BOARDS:
        (HERE / f"{name}.json").write_text(board(name), encoding="utf-8")
