"""Taking objects for queued devices: the Router itself is the far side of an association with a device of ours."""
