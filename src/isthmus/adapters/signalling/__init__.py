"""Signalling services."""
