"""From groups of patterns to a prediction and the quantities that the loss compares it with."""

from __future__ import annotations

import torch
from torch import Tensor

from ptycho_ray.models.physics_informed import PhysicsInformedModel, Prediction
from ptycho_ray.physics.agreement import disagreement
from ptycho_ray.physics.translation import cut_from_canvas
from ptycho_ray.training.loss import Evidence
from ptycho_ray.training.scan_training import Partners, ScanBatch


def predict_piece(
    model: PhysicsInformedModel, piece: ScanBatch, largest_shift_px: float
) -> tuple[Prediction, Evidence]:
    """What the model makes of the groups of a piece, at the learnt positions if there are any."""
    relative, centres = located(model, piece.relative, piece.members)
    prediction = model(piece.photons, relative, largest_shift_px)
    if piece.labels is None and piece.partners is None:
        return prediction, Evidence()
    compared = None
    if piece.partners is not None:
        compared = _disagreement(model, prediction.canvas, relative, centres, piece.partners, largest_shift_px)
    return prediction, Evidence(piece.labels, model.overlap_weight(), compared)


def located(model: PhysicsInformedModel, relative: Tensor, members: Tensor) -> tuple[Tensor, Tensor]:
    """Positions relative to the group centres [b, C, 2] with the learnt shifts, and the shifts of the centres [b, 2]."""
    if model.positions is None:
        return relative, torch.zeros_like(relative[:, 0])
    shifts, centres = model.positions.of_groups(members)
    return relative + shifts, centres


def _disagreement(
    model: PhysicsInformedModel,
    canvas: Tensor,
    relative: Tensor,
    centres: Tensor,
    partners: Partners,
    largest_shift_px: float,
) -> Tensor:
    """How much each group's object differs from that of its partner where both are illuminated, [b], 0 to 1.

    Both are cropped around the midpoint of the two centres, so that both are interpolated by the same fraction of a
    pixel. No gradient flows through the partner's object: every group is some group's partner, so this only halves the
    cost.
    """
    their_relative, their_centres = located(model, partners.relative, partners.members)
    with torch.no_grad():
        theirs = model.canvas(partners.photons, their_relative, largest_shift_px)
        our_trust = model.coverage(relative, largest_shift_px)
        their_trust = model.coverage(their_relative, largest_shift_px)
    half_way = 0.5 * (partners.offset + their_centres - centres)
    n = model.config.N
    trust = cut_from_canvas(our_trust, half_way.detach(), n) * cut_from_canvas(their_trust, -half_way.detach(), n)
    compared = disagreement(cut_from_canvas(canvas, half_way, n), cut_from_canvas(theirs, -half_way, n), trust)
    return torch.where(partners.present, compared, 0.0)
