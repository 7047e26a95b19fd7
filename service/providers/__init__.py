"""Foreign sign-in providers: what each of them calls who somebody is, brought into one form."""
