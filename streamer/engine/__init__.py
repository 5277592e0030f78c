"""The making of video: worker processes, seen from asyncio and from within."""
