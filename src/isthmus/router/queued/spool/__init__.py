"""The spool: sealed objects in bundles, one file each. What is in a bundle is durable before it is acknowledged."""
