#!lua
-- Takes what may be used once, such as the `jti` of a client assertion.
-- KEYS: what · ARGV: ms to remember
-- Answers: 1 the first time, 0 after that.
return redis.call('SET', KEYS[1], 1, 'NX', 'PX', ARGV[1]) and 1 or 0
