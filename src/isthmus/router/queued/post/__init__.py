"""The post: bundles to other sites and from them, over mailboxes that a blobstore keeps."""
