"""Queued delivery: an object is acknowledged once it is durable here, and travels later."""
