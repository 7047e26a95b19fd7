"""What other software may ask; one file per endpoint."""
