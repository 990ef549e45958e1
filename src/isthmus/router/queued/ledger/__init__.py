"""The ledger: which objects wait for whom. An index of the spool's bundles, and what became of each copy."""
