#!lua
-- Puts a new code and link in the place of the old ones. The tries that were spent stay spent
-- (NIST SP 800-63B-4 3.1.3.2).
-- KEYS: registration · ARGV: digest of the code, ms it lives, digest of the link, ms it lives
-- Answers: 1, or 0 when there is no such registration.
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HSET', KEYS[1], 'code', ARGV[1], 'code_until', now + ARGV[2], 'link', ARGV[3], 'link_until', now + ARGV[4])
return 1
