"""The pairs of cloud services that sessions may use."""
