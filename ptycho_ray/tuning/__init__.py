"""Sweeps over settings: what is searched, how a trial is run and judged, what is proposed next, what is written. No ray."""
