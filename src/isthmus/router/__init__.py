"""The Router: one per institution; to its devices it is every device of the other sites."""
