#!lua flags=allow-oom
-- Ends every session of an account that was opened up to now, in constant time.
-- KEYS: account · ARGV: ms for which the watermark must be remembered
-- Answers: the watermark.
--% record
local key, remember = KEYS[1], tonumber(ARGV[1])
-- One more than before, although the millisecond may be the same: `open` steps over the mark, this steps over it.
-- Not below the newest session either: a server whose clock is behind may have taken over since it was opened.
local mark = math.max(watermark(key) + 1, newest(key), clock())
redis.call('HSET', key, 'w', mark)
if redis.call('PTTL', key) < remember then redis.call('PEXPIRE', key, remember) end
return mark
