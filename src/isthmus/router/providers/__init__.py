"""Clouds: which pairs of services this Router may use, holds open and trusts to work."""
