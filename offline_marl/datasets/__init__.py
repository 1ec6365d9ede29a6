"""Recordings, the multi-agent data sets split from them, and the buffers that sample them."""
