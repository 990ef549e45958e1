"""The Bridge: accounts, directory, sessions, and the built-in signalling service and blobstore, behind one REST API."""
