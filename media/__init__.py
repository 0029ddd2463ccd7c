"""Streams: RTP and PS in, relays and viewers out. Knows no SIP message, camera or township."""
