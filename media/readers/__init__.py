"""Everything that takes access units or packets out of a stream: viewers, relays, pictures."""
