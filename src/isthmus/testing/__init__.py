"""Shipped helpers for tests: ours, and those of people who write providers."""
