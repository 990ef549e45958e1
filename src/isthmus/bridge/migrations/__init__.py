"""Schema changes of the Bridge database, applied at start."""
