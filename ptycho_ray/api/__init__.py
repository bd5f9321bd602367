"""The functions of ``import ptycho_ray as pr``, one for a command."""
