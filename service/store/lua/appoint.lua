#!lua flags=allow-oom
-- Gives the sessions of an account other roles; nothing happens where there are none.
-- KEYS: account · ARGV: roles
-- Answers: 1, or 0 when the account has no sessions.
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
redis.call('HSET', KEYS[1], 'r', ARGV[1])
return 1
