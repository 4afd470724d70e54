"""What a worker counts and samples."""
