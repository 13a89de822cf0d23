"""Personal rewards over HTTP: the application, its page, and a client."""
