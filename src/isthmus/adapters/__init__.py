"""Providers: one file for each cloud service behind one of the two ports."""
