"""HTTP and WebSocket: the page, streams, signalling and control."""
