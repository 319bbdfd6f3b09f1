"""What an inspection or a comparison found, for people and for programs."""
