#!lua flags=allow-oom
-- Brings a session back that the journal knows and this server does not (any more). What is there stays as it is.
-- KEYS: account · ARGV: sid, created, authenticated, used, absolute, idle (all ms since 1970), generation, salt, client, detail, roles, ms for which the key outlives it
-- Answers: 1 when it was brought back, else 0.
--% record
local key, sid = KEYS[1], ARGV[1]
if redis.call('HEXISTS', key, sid) == 1 then return 0 end
local now = clock()
local created, absolute = tonumber(ARGV[2]), tonumber(ARGV[5])
-- Not confirmed: whether its holder has the newest token is not known.
write(key, sid, {
  created = created, authenticated = tonumber(ARGV[3]), used = tonumber(ARGV[4]), rotated = tonumber(ARGV[4]),
  absolute = absolute, idle = tonumber(ARGV[6]), generation = tonumber(ARGV[7]), confirmed = 0, ended = 0,
  salt = ARGV[8], client = ARGV[9], detail = ARGV[10],
})
redis.call('HSET', key, 'n', math.max(created, newest(key)))
redis.call('HSETNX', key, 'r', ARGV[11])
local remember = math.max(absolute - now, 0) + tonumber(ARGV[12])
if redis.call('PTTL', key) < remember then redis.call('PEXPIRE', key, remember) end
return 1
