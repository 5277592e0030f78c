"""Commands that look at models and at the machine; `streamer.cli` wires them in."""
