"""Draw docs/images/coordinates.png: ``python docs/draw_coordinates.py``."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.patches import Circle, Rectangle

POSITIONS = [(26, 24), (26, 40), (26, 56), (42, 24), (42, 40), (42, 56)]
N = 32


def draw(path: Path) -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4), width_ratios=(1.6, 1), layout="constrained")
    for number, (row, column) in enumerate(POSITIONS):
        first = number == 0
        left.add_patch(Circle((column, row), 12, color="tab:blue", alpha=0.25 if first else 0.1))
        left.plot(column, row, "o", color="tab:blue", ms=5 if first else 3)
    row, column = POSITIONS[0]
    left.add_patch(Rectangle((column - N // 2 - 0.5, row - N // 2 - 0.5), N, N, fill=False, color="tab:red"))
    left.annotate("patch [N, N]", (column - N // 2 + 1, row + N // 2 - 2), color="tab:red")
    left.annotate("position = patch pixel (N//2, N//2)", (column, row), (14, 74), arrowprops={"arrowstyle": "->"})
    left.annotate("origin_px: position of pixel (0, 0)", (0, 0), (14, 1), arrowprops={"arrowstyle": "->"}, va="center")
    left.set(title="object [H, W], seen along the beam", xlim=(-4, 84), ylim=(84, -4), aspect="equal")
    left.set(xlabel="column, x, in object pixels", ylabel="row, y, in object pixels")
    right.add_patch(Rectangle((-0.5, -0.5), N, N, fill=False, color="k"))
    right.plot(N // 2, N // 2, "+", color="tab:red", ms=14)
    right.annotate("zero frequency at (N//2, N//2)", (N // 2, N // 2), (3, 27), arrowprops={"arrowstyle": "->"})
    right.set(title="pattern [N, N]", xlim=(-2, N + 1), ylim=(N + 1, -2), aspect="equal", xlabel="column", ylabel="row")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    draw(Path(__file__).parent / "images" / "coordinates.png")
