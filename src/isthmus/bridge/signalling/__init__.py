"""The built-in signalling service: notices from Router to Router over WebSockets."""
