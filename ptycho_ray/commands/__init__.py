"""The commands of ``ptycho-ray``, one module each: options (their docstrings are the help) and ``run(words)``.

``run`` takes the words after the command's name and returns its result as a dictionary; ``ptycho_ray.commands.cli`` prints it.
Heavy modules are imported inside it, so that ``--help`` is quick.
"""
