"""The edge: everything between a client's request and the engine's answer."""
