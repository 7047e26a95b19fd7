#!lua
-- Opens a session. Sweeps what is dead, and ends the sessions used longest ago when the account holds too many.
-- KEYS: account · ARGV: sid, idle ms, absolute ms, most sessions, tombstone ms, salt, client, detail, roles, ms since the person was proved
-- Answers: sid, created, absolute, the roles in force, then the ids of the sessions that had to go.
--% record
local key, sid = KEYS[1], ARGV[1]
local idle, absolute, most, tombstone = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local EVICTED = 3
local DAY = 86400000
local now = clock()
local mark = watermark(key)

local live, dead = {}, {}
local stored = redis.call('HGETALL', key)
for i = 1, #stored, 2 do
  if #stored[i] == 16 then
    local s = unpacked(stored[i + 1])
    local state = verdict(s, mark, now)
    if state == 'live' then
      live[#live + 1] = { sid = stored[i], s = s }
    elseif state == 'expired' or now - s.used >= tombstone then
      redis.call('HDEL', key, stored[i])
    else
      dead[#dead + 1] = { sid = stored[i], s = s }
    end
  end
end

local function by_use(a, b)
  if a.s.used == b.s.used then return a.sid < b.sid end
  return a.s.used < b.s.used
end
table.sort(live, by_use)
local evicted = {}
for i = 1, #live - most + 1 do
  live[i].s.ended, live[i].s.used = EVICTED, now
  write(key, live[i].sid, live[i].s)
  evicted[#evicted + 1] = live[i].sid
end

-- What was ended is remembered for a while, but not without bound: unknown is refused just like ended.
table.sort(dead, by_use)
for i = 1, #dead - most do redis.call('HDEL', key, dead[i].sid) end

-- Younger than the watermark even within its millisecond: whoever opens after an "end all" must live.
local created = math.max(now, mark + 1)
write(key, sid, {
  created = created, authenticated = created - tonumber(ARGV[10]), used = now, rotated = now, absolute = now + absolute, idle = now + math.min(idle, absolute),
  generation = 0, confirmed = 1, ended = 0, salt = ARGV[6], client = ARGV[7], detail = ARGV[8],
})
redis.call('HSET', key, 'n', math.max(created, newest(key)))
-- What an operator has changed since the roles were read must not come back.
redis.call('HSETNX', key, 'r', ARGV[9])
if redis.call('PTTL', key) < absolute + DAY then redis.call('PEXPIRE', key, absolute + DAY) end

return { sid, created, now + absolute, redis.call('HGET', key, 'r'), unpack(evicted) }
