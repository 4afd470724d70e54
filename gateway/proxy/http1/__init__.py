"""HTTP/1.1, the codec: bytes to calls on exchanges and attempts."""
