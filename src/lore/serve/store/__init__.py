"""The database of the server: events, vectors, models and tokens over one engine."""
