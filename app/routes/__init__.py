"""The HTTP routes: each parses a request, calls the service and shapes the reply."""
