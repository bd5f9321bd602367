"""What deserves a person's attention, as rules for Prometheus. The names of metrics are those of ``metrics.py``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import yaml

from ptycho_ray.service import metrics as m

#: The service is scraped under this name of a job (docs/operations.md).
SCRAPED_AS = "ptycho_ray"


@dataclass(frozen=True)
class Alert:
    """One rule: when, for how long before it is said, how bad it is, and what to do."""

    name: str
    when: str
    lasts: str
    severity: str
    says: str
    do: str


ALERTS = (
    Alert("Down", f'up{{job="{SCRAPED_AS}"}} == 0', "2m", "critical", "The service does not answer.",
          "Look at its output and at service.log in its data folder; jobs continue once it is started again."),
    Alert("Errors", f'sum(rate({m.REQUESTS}_total{{status=~"500|502|504"}}[5m])) / sum(rate({m.REQUESTS}_total[5m])) > 0.02',
          "5m", "critical", "More than 2 % of the requests end with an error of the service.", "Look at service.log."),
    Alert("Slow", f'histogram_quantile(0.99, sum by (le) (rate({m.SECONDS}_bucket{{route="/v1/models"}}[10m]))) > 10',
          "10m", "warning", "To list the models takes more than 10 s.",
          "The machine is overloaded, or the database or the disk is slow."),
    Alert("AttemptsLost", f"increase({m.LOST}_total[15m]) > 3", "0m", "warning",
          "Replicas die at their work.", "Look at service.log for the job; memory is the usual reason (max_memory_bytes)."),
    Alert("Waiting", f"max({m.WAITING}) > 1800", "10m", "warning", "A reconstruction has waited for half an hour.",
          "Add replicas (--max-replicas), or limit who takes most: ptycho-ray operate quotas"),
    Alert("QueueFull", f'sum(max by (state) ({m.JOBS}{{state=~"queued|running"}})) > 0.8 * max({m.JOBS_LIMIT})',
          "5m", "warning", "Soon further reconstructions get 503.", "As for Waiting, or raise max_jobs."),
    Alert("DiskLow", f"min({m.DISK_FREE}) < 2 * max({m.DISK_RESERVE})", "5m", "critical", "Soon uploads get 507.",
          "Keep results for a shorter time or in less space (--keep-days, --keep-gib)."),
    Alert("NotReady", f'sum(increase({m.REQUESTS}_total{{route="/readyz",status="503"}}[5m])) > 2 and max({m.DRAINING}) == 0',
          "0m", "critical", "The job database or every model is out of reach.", "/readyz says which."),
    Alert("StillDraining", f"max({m.DRAINING}) > 0", "1h", "warning", "The service has accepted no new work for an hour.",
          "ptycho-ray operate accept, or restart it."),
)  # fmt: skip


def rules() -> str:
    """The rules as a file for Prometheus (``rule_files``)."""
    each: list[dict[str, Any]] = [
        {
            "alert": f"PtychoRay{alert.name}",
            "expr": alert.when,
            "for": alert.lasts,
            "labels": {"severity": alert.severity},
            "annotations": {"summary": alert.says, "description": alert.do},
        }
        for alert in ALERTS
    ]
    return yaml.safe_dump({"groups": [{"name": SCRAPED_AS, "rules": each}]}, sort_keys=False, width=118)
