"""The two ports to the cloud, as small as the weakest provider's promise."""
