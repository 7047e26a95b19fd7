"""What is handed out: sessions, access tokens, keys, clients. It knows account ids, never accounts."""
