#!lua flags=allow-oom
-- Says whether a session lives, and whether this one of its access tokens was not revoked by itself. The first sight of a generation confirms it: its holder got the answer, so the
-- token before it has no excuse any more. When it was used is noted once in a while, not at every request.
-- KEYS: account, denial of the access token · ARGV: sid, generation of the access token, ms after which use is noted again
-- Answers: `live`, sid, roles · or the reason it is not, sid.
--% record
local key, sid, generation, pause = KEYS[1], ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local now = clock()

local s = read(key, sid)
if not s then return { 'unknown', sid } end
local state = verdict(s, watermark(key), now)
if state ~= 'live' then return { state, sid } end
if redis.call('EXISTS', KEYS[2]) == 1 then return { 'denied', sid } end

local confirms = s.confirmed == 0 and generation == s.generation
if confirms or now - s.used >= pause then
  if confirms then s.confirmed = 1 end
  s.used = math.max(s.used, now)
  write(key, sid, s)
end
return { 'live', sid, redis.call('HGET', key, 'r') or '' }
