"""Pages that we serve ourselves, for those who have no front end of their own yet."""
