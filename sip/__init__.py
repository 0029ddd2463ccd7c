"""The protocol: RFC 3261 and what GB/T 28181 adds. Knows no database, no media and no settings file."""
