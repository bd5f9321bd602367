"""The forward model of far-field ptychography as pure functions on tensors.

Shape letters used here and in the modules: B groups, C patterns in a group (``gridsize**2``), P incoherent probe
modes, N side of a pattern, S side of a group's canvas. Lengths and shifts are in object pixels, (row, column).
Nothing here knows a file, a configuration or a device name.
"""
