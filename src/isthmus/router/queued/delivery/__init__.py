"""Delivery of queued objects to the devices of this site."""
