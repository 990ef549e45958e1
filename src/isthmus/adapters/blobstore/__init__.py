"""Blobstores."""
