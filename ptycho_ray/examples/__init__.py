"""Scans and configurations that come with the package."""
