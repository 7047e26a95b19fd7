#!lua
-- The rate limiter (GCRA): one number per subject, the theoretical arrival time of the next attempt.
-- KEYS: subject · ARGV: attempts, period ms
-- Answers: 0 when the attempt counts and may go on, else the ms to wait.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local attempts, period = tonumber(ARGV[1]), tonumber(ARGV[2])
local arrival = math.max(tonumber(redis.call('GET', KEYS[1]) or now), now) + period / attempts
local wait = math.ceil(arrival - period - now)
if wait > 0 then return wait end
redis.call('SET', KEYS[1], string.format('%.3f', arrival), 'PX', math.max(1, math.ceil(arrival - now)))
return 0
