"""The services: one file per thing the gateway does."""
