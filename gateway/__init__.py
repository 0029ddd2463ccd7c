"""The service: devices, channels, sessions, cascade, HTTP API, metrics and storage."""

__version__ = "0.1.0"
