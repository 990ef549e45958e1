"""Measuring the way to this Bridge, for those who have no invite yet."""
