"""Who exists: accounts, sign-up, and the door through which a proven person comes in."""
