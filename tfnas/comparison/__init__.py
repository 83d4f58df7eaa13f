"""Nets trained alike and compared: contenders, trials, the record, verdicts."""
