#!lua
-- Puts a value in front of a list and keeps the newest ones.
-- KEYS: list · ARGV: value, how many are kept
-- Answers: 1.
redis.call('LPUSH', KEYS[1], ARGV[1])
redis.call('LTRIM', KEYS[1], 0, ARGV[2] - 1)
return 1
