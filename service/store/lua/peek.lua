#!lua flags=no-writes
-- Says whether a refresh token would be taken at this moment, and changes nothing.
-- KEYS: account · ARGV: sid, its generation, grace ms, lost-answer ms
-- Answers: `live`, sid, when its generation began, when it ends unused · or the reason it would not, sid.
--% record
local key, sid, generation = KEYS[1], ARGV[1], tonumber(ARGV[2])
local grace, lost = tonumber(ARGV[3]), tonumber(ARGV[4])
local now = clock()

local s = read(key, sid)
if not s then return { 'unknown', sid } end
local state = verdict(s, watermark(key), now)
if state ~= 'live' then return { state, sid } end
if generation < s.generation and not is_retry(s, generation, now, grace, lost) then return { 'superseded', sid } end
return { 'live', sid, s.rotated, math.min(s.idle, s.absolute) }
