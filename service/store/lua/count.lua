#!lua
-- Counts what happens in a row, until it is forgotten or nothing has happened for long.
-- KEYS: subject · ARGV: ms to remember
-- Answers: how often it has happened.
local times = redis.call('INCR', KEYS[1])
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return times
