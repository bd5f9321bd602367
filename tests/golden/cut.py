"""Cuts the small cases out of the full set of reference numbers: ``python tests/golden/cut.py ../shared/golden``.

An array of less than ``WHOLE_BYTES`` is copied. A larger one is copied, or an exact slice of it, if a pattern names it.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
WHOLE_BYTES = 12_000
ALL = np.s_[:]
ONE = np.s_[:1]

#: For each file: patterns of the names of its larger arrays, and what is kept of them. The first pattern that fits counts.
CUTS: dict[str, list[tuple[str, object]]] = {
    "a_grouping_small40.npz": [
        ("diff3d|objectGuess|probeGuess|.*coords_.*", ALL),
        ("gs1_.*/(X_full_first3|Y_first2)|gs2_K7_seed0/X_full_first3", ONE),
    ],
    "a_grouping_train1024.npz": [(".*nn_indices|[xy]coords", ALL)],
    "b_normalisation.npz": [
        ("illuminate/(Y_patches|X|Y_I|Y_phi)", np.s_[:2]),
        ("normalize_data/amp/out0", np.s_[:, :, :1]),
        ("in_.*|normalize_data/u16/.*|illuminate/.*", ALL),
    ],
    "c_physics_forward.npz": [
        ("translate/(img|bilinear_xla)", np.s_[:2]),
        ("translate/bilinear_noxla|gs1/extracted_flat", ONE),
        ("gs./(obj|pred_diff_channel|pred_amp_scaled)", np.s_[:1, :, :, :1]),
        ("gs./illuminated.*", ONE),
        ("gs./extracted_flat", np.s_[:4]),
        ("gs./(amp|phase|reassembled_padded)", ONE),
        ("gs./probe_set", ALL),
        ("gs1/pad_reconstruction_object_big_False|pad_and_diffract/(in|amp)", ONE),
    ],
    "d_losses.npz": [("(?!rs_target).*", ALL)],
    "e_reassembly.npz": [
        ("gs./(patches|within_sum_real|within_reassembled)", ONE),
        ("gs./global_in_patches", np.s_[:, 22:42, 22:42]),
        ("gs1/reassemble_position_M10|gs./reassemble_position_M20", ALL),
    ],
    "f_evaluation.npz": [("noisy_ramp/(pred|target)", ALL), ("plane_removed_noisy", np.s_[:10])],
    "g2_forward_gs1.npz": [("X|probe_set", ALL), ("padded_obj|obj|pred_amp|pred_intensity", ONE)],
    "h_probe.npz": [
        ("(?!scale_probe|apply).*_64.*|sim_object.*|dummy_phi.*|set_probe_guess.*|complex_gaussian.*", ALL)
    ],
    "t_ops.npz": [("gs2/c/(reassembled|extracted)", ONE)],
}
COPIED = ("f_evaluation.json", "g_model_tables.json", "g2_forward_gs1_weight_order.json", "i_legacy_dict.json")


def cut(source: Path) -> None:
    for name, patterns in CUTS.items():
        kept = {}
        with np.load(source / name, allow_pickle=False) as arrays:
            for key in arrays.files:
                array = arrays[key]
                parts = [part for pattern, part in patterns if re.fullmatch(pattern, key)]
                if parts or array.nbytes < WHOLE_BYTES:
                    kept[key] = array[parts[0]] if parts and array.ndim else array
        np.savez_compressed(HERE / name, **kept)
    for name in COPIED:
        shutil.copyfile(source / name, HERE / name)


if __name__ == "__main__":
    cut(Path(sys.argv[1]))
