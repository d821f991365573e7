"""What a finished run is for: ranked items for a user."""
