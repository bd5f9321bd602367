"""Training without labels: losses, schedule, loop, checkpoints."""
