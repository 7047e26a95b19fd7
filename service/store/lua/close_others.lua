#!lua flags=allow-oom
-- Ends every session of an account but one.
-- KEYS: account · ARGV: sid to keep, reason (see Ended)
-- Answers: the ids of the sessions that were ended.
--% record
local key, keep, reason = KEYS[1], ARGV[1], tonumber(ARGV[2])
local now, mark = clock(), watermark(key)

local closed = {}
local stored = redis.call('HGETALL', key)
for i = 1, #stored, 2 do
  if #stored[i] == 16 and stored[i] ~= keep then
    local s = unpacked(stored[i + 1])
    if verdict(s, mark, now) == 'live' then
      s.ended, s.used = reason, now
      write(key, stored[i], s)
      closed[#closed + 1] = stored[i]
    end
  end
end
return closed
