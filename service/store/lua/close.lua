#!lua flags=allow-oom
-- Ends one session, for good.
-- KEYS: account · ARGV: sid, reason (see Ended), the client that must hold it (empty: whichever)
-- Answers: `closed`, `revoked` (it was ended before), `expired`, `foreign` or `unknown`, and the sid.
--% record
local key, sid, reason, client = KEYS[1], ARGV[1], tonumber(ARGV[2]), ARGV[3]
local now = clock()

local s = read(key, sid)
if not s then return { 'unknown', sid } end
if client ~= '' and s.client ~= client then return { 'foreign', sid } end
local state = verdict(s, watermark(key), now)
if s.ended == 0 then
  s.ended, s.used = reason, now
  write(key, sid, s)
end
return { state == 'live' and 'closed' or state, sid }
