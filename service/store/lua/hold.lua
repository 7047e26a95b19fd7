#!lua
-- Holds a pending sign-up until it is proved or forgotten.
-- KEYS: registration · ARGV: ms to live, then field, value, …
redis.call('HSET', KEYS[1], unpack(ARGV, 2))
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return 1
