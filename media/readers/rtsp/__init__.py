"""The RTSP server of a media node (RFC 2326): live streams for players, recorders and analysis boxes."""
