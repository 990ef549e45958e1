"""What Bridge and Router agree on: signed documents, the REST schema, notices and invites."""
