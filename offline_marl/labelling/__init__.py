"""A page on which people compare segments of play: questions, clips, the server and what it refuses."""
