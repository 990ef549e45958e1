"""The built-in blobstore: sealed blobs on disk, for a day."""
