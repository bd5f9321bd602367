"""Sources of a scan during its measurement, and a replay that speaks for them. Neither torch nor Ray is imported."""
