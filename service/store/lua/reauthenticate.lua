#!lua
-- Begins a session anew for whoever gave the password again: next generation, both timeouts from now on.
-- A generation that the asker may not have heard of is kept, or a double click would turn an honest tab into a thief.
-- KEYS: account · ARGV: sid, generation of the access token, grace ms, lost-answer ms, idle ms, absolute ms, how
-- Answers: `live`, sid, generation, authenticated, absolute, salt, client, detail, roles · or the reason it is not, sid.
--% record
local key, sid, presented, grace, lost = KEYS[1], ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local idle, absolute, how = tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7]
local DAY = 86400000
local now = clock()

local s = read(key, sid)
if not s then return { 'unknown', sid } end
local state = verdict(s, watermark(key), now)
if state ~= 'live' then return { state, sid } end

if not is_retry(s, presented, now, grace, lost) then
  s.generation, s.confirmed, s.rotated = s.generation + 1, 0, now
end
s.used, s.authenticated = now, now
s.absolute, s.idle = now + absolute, now + math.min(idle, absolute)
s.detail = string.match(s.detail, '^[^\n]*') .. '\n' .. how
write(key, sid, s)
if redis.call('PTTL', key) < absolute + DAY then redis.call('PEXPIRE', key, absolute + DAY) end
return { 'live', sid, s.generation, now, s.absolute, s.salt, s.client, s.detail, redis.call('HGET', key, 'r') or '' }
