"""Recording a run: a table of figures, and MLflow if it is asked for (docs/tracking.md, docs/decisions/0006-tracking.md).

Nothing in the training process imports MLflow or waits for a network. Records are written to a journal in the output
folder; a second process reads the journal and sends it on.
"""

from ptycho_ray.tracking.build import build_trackers
from ptycho_ray.tracking.stores import is_mlflow_uri, run_tags
from ptycho_ray.tracking.trackers import CsvTracker, Quiet, Tracker, recorded

__all__ = [
    "CsvTracker",
    "Quiet",
    "Tracker",
    "build_trackers",
    "is_mlflow_uri",
    "recorded",
    "run_tags",
]
