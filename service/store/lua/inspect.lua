#!lua flags=allow-oom
-- Says whether a session lives. The first sight of a generation confirms it: its holder got the answer, so the
-- token before it has no excuse any more.
-- KEYS: account · ARGV: sid, generation of the access token
-- Answers: `live`, sid, roles · or the reason it is not, sid.
--% record
local key, sid, generation = KEYS[1], ARGV[1], tonumber(ARGV[2])

local s = read(key, sid)
if not s then return { 'unknown', sid } end
local state = verdict(s, watermark(key), clock())
if state ~= 'live' then return { state, sid } end

if s.confirmed == 0 and generation == s.generation then
  s.confirmed = 1
  write(key, sid, s)
end
return { 'live', sid, redis.call('HGET', key, 'r') or '' }
