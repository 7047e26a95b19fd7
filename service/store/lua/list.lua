#!lua flags=no-writes
-- Lists the sessions of an account that live.
-- KEYS: account
-- Answers: for each its sid, created, used, absolute, client.
--% record
local key = KEYS[1]
local now, mark = clock(), watermark(key)

local live = {}
local stored = redis.call('HGETALL', key)
for i = 1, #stored, 2 do
  if #stored[i] == 16 then
    local s = unpacked(stored[i + 1])
    if verdict(s, mark, now) == 'live' then live[#live + 1] = { stored[i], s.created, s.used, s.absolute, s.client } end
  end
end
return live
