"""What a run is: frozen, checked, hashed."""
