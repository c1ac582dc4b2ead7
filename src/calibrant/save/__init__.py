"""Put results on disk, all of them or none."""
