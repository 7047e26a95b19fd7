#!lua
-- Compares a code. The try counts before the comparison, so that parallel guesses cannot pass the limit.
-- A right code is claimed for a moment: of many who present it at once, one goes on.
-- KEYS: registration · ARGV: digest of the presented code, most tries, ms of the claim
-- Answers: `right`, `claimed` (right, but somebody is at it), `wrong`, `burnt` (no tries left) or `unknown`.
if redis.call('EXISTS', KEYS[1]) == 0 then return 'unknown' end
local tries = redis.call('HINCRBY', KEYS[1], 'tries', 1)
if tries > tonumber(ARGV[2]) then return 'burnt' end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local code = redis.call('HGET', KEYS[1], 'code')
local code_until = tonumber(redis.call('HGET', KEYS[1], 'code_until') or 0)
if not code or code ~= ARGV[1] or now >= code_until then return 'wrong' end
redis.call('HINCRBY', KEYS[1], 'tries', -1)
if now < tonumber(redis.call('HGET', KEYS[1], 'claimed') or 0) then return 'claimed' end
redis.call('HSET', KEYS[1], 'claimed', now + ARGV[3])
return 'right'
