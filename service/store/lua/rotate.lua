#!lua flags=allow-oom
-- Gives a session its next generation, or the same successor again, or ends it when an old token comes back.
-- KEYS: account · ARGV: sid, presented generation, client, grace ms, lost-answer ms, idle ms
-- Answers: outcome, sid; for `revoked` and `reused` why it ended (see Ended); for `rotated`, `healed`, `repeated`:
-- generation, authenticated, absolute, detail, roles.
--% record
local key, sid, presented, client = KEYS[1], ARGV[1], tonumber(ARGV[2]), ARGV[3]
local grace, lost, idle = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local REUSED = 2
local now = clock()

local s = read(key, sid)
if not s then return { 'unknown', sid } end
if s.client ~= client then return { 'foreign', sid } end
local state = verdict(s, watermark(key), now)
if state ~= 'live' then return { state, sid, s.ended } end

local function answer(outcome)
  return { outcome, sid, s.generation, s.authenticated, s.absolute, s.detail, redis.call('HGET', key, 'r') or '' }
end

if presented >= s.generation then
  -- A token ahead of the record is genuine (its MAC was checked): the store has lost writes, so catch up.
  local outcome = presented > s.generation and 'healed' or 'rotated'
  s.generation, s.confirmed, s.rotated, s.used = presented + 1, 0, now, now
  s.idle = math.min(now + idle, s.absolute)
  write(key, sid, s)
  return answer(outcome)
end

if is_retry(s, presented, now, grace, lost) then
  return answer('repeated')
end

s.ended, s.used = REUSED, now
write(key, sid, s)
return { 'reused', sid, REUSED }
