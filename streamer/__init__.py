"""streamer: an endless video, steered by prompts while it plays.  Importing it costs nothing."""

__version__ = "0.1.0"
