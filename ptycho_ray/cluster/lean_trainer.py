"""Ray's trainer without the processes that this program has no use for; each of them costs two seconds of a processor."""

from __future__ import annotations

from typing import Any

from ray.train.torch import TorchTrainer

#: One that deals out datasets of Ray Data, of which there are none here; and one that takes back the room of a run whose
#: controller was killed, which it asks the dashboard about, and a cluster that ends with the program has none.
NO_DATASETS, NO_DASHBOARD = {"DatasetsCallback"}, {"PlacementGroupCleanerCallback"}


class LeanTrainer(TorchTrainer):
    """A ``TorchTrainer``.

    Args:
        own_cluster: the cluster was started by this program.
    """

    def __init__(self, *args: Any, own_cluster: bool, **more: Any) -> None:
        self._left_out = NO_DATASETS | (NO_DASHBOARD if own_cluster else set())
        super().__init__(*args, **more)

    def _create_default_callbacks(self) -> list[Any]:
        made: list[Any] = super()._create_default_callbacks()
        return [each for each in made if type(each).__name__ not in self._left_out]
