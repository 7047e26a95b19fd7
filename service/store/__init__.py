"""The only room that knows drivers: PostgreSQL and Redis, with their outages turned into one refusal, 503."""
