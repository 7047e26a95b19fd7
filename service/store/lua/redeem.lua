#!lua
-- Compares a code or a link. The try counts before the comparison, so that parallel guesses cannot pass the limit.
-- A right one is claimed for a moment: of many who present it at once, one goes on.
-- KEYS: registration · ARGV: `code` or `link`, digest of what was presented, most tries, ms of the claim
-- Answers: `right`, `claimed` (right, but somebody is at it), `wrong`, `burnt` (no tries left) or `unknown`.
if redis.call('EXISTS', KEYS[1]) == 0 then return 'unknown' end
local kind = ARGV[1]
local tries = redis.call('HINCRBY', KEYS[1], 'tries', 1)
if tries > tonumber(ARGV[3]) then return 'burnt' end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local digest = redis.call('HGET', KEYS[1], kind)
local good_until = tonumber(redis.call('HGET', KEYS[1], kind .. '_until') or 0)
if not digest or digest ~= ARGV[2] or now >= good_until then return 'wrong' end
redis.call('HINCRBY', KEYS[1], 'tries', -1)
if now < tonumber(redis.call('HGET', KEYS[1], 'claimed') or 0) then return 'claimed' end
redis.call('HSET', KEYS[1], 'claimed', now + ARGV[4])
return 'right'
