"""How fast a stream is made on this machine, and whether that is good."""
