"""TCP to and from the devices of this site: the listener with its gate, the driver of a connection, dialling."""
