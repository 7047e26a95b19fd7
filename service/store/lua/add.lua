#!lua
-- Puts a member into a set, which ends a while after the last one came.
-- KEYS: set · ARGV: member, seconds
-- Answers: 1.
redis.call('SADD', KEYS[1], ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[2])
return 1
