#!lua flags=allow-oom
-- Ends one access token before its time.
-- KEYS: denial of the access token · ARGV: ms that it would have lived
-- Answers: 1.
redis.call('SET', KEYS[1], 1, 'PX', ARGV[1])
return 1
