"""The iterative solver: one update kernel, and the methods that use it. Public face: ptycho_ray.refinement.solver."""
