"""Everything that brings media into a stream."""
