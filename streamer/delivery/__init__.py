"""From frames to viewers: encode once, fan out, WebRTC."""
