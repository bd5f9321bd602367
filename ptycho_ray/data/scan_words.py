"""The facts of a scan in words, with their units: on a terminal and on the page of the service."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def scan_lines(result: Mapping[str, Any]) -> dict[str, str]:
    """The facts of a whole scan (:func:`ptycho_ray.data.account.account_of_file`) by name, in the order to show them."""
    geometry, pixel = result["geometry"], result["pixel_size_m"]
    step, (rows, columns) = result["nearest_position_px"], result["scanned_field_px"]
    low, high = result["dose"]["smallest_and_largest"]
    quanta = "electrons" if result["electrons"] else "photons"
    unit = quanta if result["counts_are_photons"] else "units of the file"
    energy, distance, detector = (geometry[name] for name in ("energy_eV", "detector_distance_m", "detector_pixel_m"))
    beam = [] if energy is None else [f"{energy / 1e3:.4g} keV {quanta}"]
    beam += [] if detector is None else [f"detector pixel {length_text(detector)}"]
    beam += [] if distance is None else [f"at {length_text(distance)}"]
    modes = result["probe_modes"]
    probe = f"{modes} mode{'s' if modes > 1 else ''}, {_both(result['probe_diameter_px'], pixel)} wide"
    facts: dict[str, str | None] = {
        "file": f"{result['file']}, {result['format']}",
        "patterns": f"{result['patterns']} of {result['N']} x {result['N']} px, stored as {result['stored_as']}; "
        f"{result['mean_intensity_of_a_pattern']:.4g} {unit} each ({low:.4g} to {high:.4g})",
        "bad pixels": f"{result['bad_detector_pixels']} of {result['N'] ** 2}",
        "beam": ", ".join(beam) or "not stated",
        "detector": None,  # of a microscope
        "object pixel": "not stated" if pixel is None else length_text(pixel),
        "scan": f"{_both(rows, pixel)} x {_both(columns, pixel)}, neighbours {_both(step, pixel)} apart, overlap "
        f"{_overlap(result['linear_overlap_of_neighbours'])}",
        "probe": probe + (" (estimated, the file has none)" if result["probe_is_guess"] else ""),
        "dose": None,  # of electrons
        "pictures": str(result["first_look"]["page"]) if "page" in result.get("first_look", {}) else None,
        "truth": None if result["truth"] is None else "{} x {} px".format(*result["truth"]),
    }
    if "microscope" in result:
        facts |= microscope_lines(result)
    return {name: text for name, text in facts.items() if text is not None}


def microscope_lines(result: Mapping[str, Any]) -> dict[str, str | None]:
    """The lines of a scan with electrons that differ from those of photons."""
    told = result["microscope"]

    def figure(name: str, unit: str) -> str | None:
        return None if told[name] is None else f"{told[name]:.4g} {unit}"

    defocus = told["defocus_nm"]
    beam = [
        figure("voltage_kV", "kV"),
        figure("wavelength_pm", "pm wavelength"),
        figure("semiangle_mrad", "mrad semi-angle"),
        "defocus not stated" if defocus is None else f"{defocus:.4g} nm defocus",
        told["aberrations"],
    ]
    detector = [
        figure("mrad_per_pixel", "mrad a pixel"),
        figure("bright_field_disc_px", "px radius of the bright-field disc"),
        figure("detector_edge_mrad", "mrad at the edge"),
    ]
    gain, dose = told["counts_per_electron"], told["dose_per_square_angstrom"]
    counted = [
        "not known: the counts are not whole electrons"
        if gain is None
        else f"{told['electrons_a_pattern']:.4g} electrons a pattern"
        + ("" if gain == 1 else f", {gain:.4g} counts each"),
        None if dose is None else f"{dose:.4g} electrons per square angstrom",
    ]
    wide, modes = told["probe_diameter_angstrom"], result["probe_modes"]
    lines: dict[str, str | None] = {
        "beam": "electrons: " + ", ".join(filter(None, beam)),
        "detector": ", ".join(filter(None, detector)) or "angles not known",
        "dose": ", ".join(filter(None, counted)),
    }
    if wide is not None:
        (rows, columns), pixel = result["scanned_field_px"], told["object_pixel_angstrom"]
        lines |= {
            "object pixel": f"{pixel:.4g} angstrom",
            "scan": f"{rows * pixel:.4g} x {columns * pixel:.4g} angstrom, neighbours {told['step_angstrom']:.4g} angstrom "
            f"({result['nearest_position_px']:.4g} px) apart, overlap {_overlap(result['linear_overlap_of_neighbours'])}",
            "probe": f"{modes} mode{'s' if modes > 1 else ''}, {wide:.4g} angstrom ({result['probe_diameter_px']:.4g} px) wide"
            + (" (estimated, neither the file nor the optics say it)" if result.get("probe_is_guess") else ""),
        }
    return lines


def _overlap(overlap: float) -> str:
    return f"{overlap:.0%}" if overlap > 0 else "none"


def problem_lines(result: Mapping[str, Any]) -> Any:
    found = result["suspected_problems"]
    return found if found == "none" else [f"{each['problem']}: {each['what_to_do']}" for each in found]


def length_text(metres: float) -> str:
    """A length with the unit that suits it."""
    for unit, factor in (("m", 1.0), ("mm", 1e-3), ("um", 1e-6), ("nm", 1e-9), ("pm", 1e-12)):
        if abs(metres) >= factor or unit == "pm":
            return f"{metres / factor:.4g} {unit}"
    return f"{metres} m"


def _both(pixels: float, size: float | None) -> str:
    return f"{pixels:.4g} px" if size is None else f"{length_text(pixels * size)} ({pixels:.4g} px)"
