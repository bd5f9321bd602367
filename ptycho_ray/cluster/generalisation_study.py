"""The runs of a generalisation study side by side, each a task of a Ray cluster."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import ray
import torch

from ptycho_ray.cluster.connect import connected
from ptycho_ray.cluster.preflight import check_nodes, workers_for
from ptycho_ray.cluster.tasks import finished, of_one_worker
from ptycho_ray.tuning.generalisation_study import Row, Run, Study, do_run


def run_on_cluster(study: Study, runs: Sequence[Run]) -> Iterator[Row]:
    """Do the runs, ``study.execution.devices`` at a time, and yield the row of each as it ends.

    Raises:
        InputError: a machine of the cluster does not see the scans or the folder, or has other packages.
        TrainingLost: a run lost its worker more often than ``execution.max_failures``; the others are on disk.
    """
    study.folder.mkdir(parents=True, exist_ok=True)
    with connected(study.execution):
        workers = workers_for(study.execution)
        check_nodes(files=[str(path.absolute()) for path in (study.train_file, study.test_file, study.folder)])
        task = ray.remote(_run).options(
            num_cpus=study.execution.cpus_per_device,
            num_gpus=workers.resources.get("GPU", 0),
            max_retries=study.execution.max_failures,
        )
        alone = replace(study, execution=of_one_worker(study.execution, workers))
        starts = [lambda run=run: task.remote(alone, run) for run in runs]
        for _, row in finished(starts, at_once=workers.most):
            yield row


def _run(study: Study, run: Run) -> Row:
    """Run on a worker."""
    torch.set_num_threads(study.execution.cpus_per_device)
    return do_run(study, run)
