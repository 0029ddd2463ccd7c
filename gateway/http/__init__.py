"""The HTTP face: API, console page, event stream."""
