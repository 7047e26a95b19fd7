"""What operators do over HTTP: everything below `/admin`, for the scope `admin` and, where it changes something, for
who proved themselves within the last minutes."""
