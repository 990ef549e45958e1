"""What an operator sees and does: the operations behind CLI and console, the control API, doctor and check."""
