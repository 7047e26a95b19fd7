-- What every session script shares: the clock, and how one session is packed into its field.
--
-- The hash of an account holds one field per session (16 bytes: the public session id), `w`, the watermark (all that
-- was opened up to then is dead), `n`, when the newest session was opened, and `r`, the account's roles.
-- Times are integers in milliseconds of the server's own clock.
--   created, authenticated, used, rotated, absolute, idle: 6 bytes each · generation: 4 · confirmed: 1 · ended: 1 (0 while it lives)
--   · salt: 16 · client id, a line feed, and a detail: the granted scope, a line feed, how the person was proved
local LAYOUT = '>I6I6I6I6I6I6I4I1I1'
local HEAD = 42
local SALT = 16

local function clock()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function unpacked(raw)
  local s = {}
  s.created, s.authenticated, s.used, s.rotated, s.absolute, s.idle, s.generation, s.confirmed, s.ended =
    struct.unpack(LAYOUT, raw)
  s.salt = string.sub(raw, HEAD + 1, HEAD + SALT)
  local tail = string.sub(raw, HEAD + SALT + 1)
  local feed = string.find(tail, '\n', 1, true)
  s.client, s.detail = string.sub(tail, 1, feed - 1), string.sub(tail, feed + 1)
  return s
end

local function packed(s)
  local times = struct.pack('>I6I6I6I6I6I6', s.created, s.authenticated, s.used, s.rotated, s.absolute, s.idle)
  return times .. struct.pack('>I4I1I1', s.generation, s.confirmed, s.ended) .. s.salt .. s.client .. '\n' .. s.detail
end

local function read(key, sid)
  local raw = redis.call('HGET', key, sid)
  return raw and unpacked(raw)
end

local function write(key, sid, s)
  redis.call('HSET', key, sid, packed(s))
end

local function watermark(key)
  return tonumber(redis.call('HGET', key, 'w') or 0)
end

local function newest(key)
  return tonumber(redis.call('HGET', key, 'n') or 0)
end

-- Whether somebody may not have heard of the newest generation: the one before it, within the grace that parallel
-- requests get, or for longer until the newest is seen anywhere.
local function is_retry(s, presented, now, grace, lost)
  local age = now - s.rotated
  return presented == s.generation - 1 and (age < grace or (s.confirmed == 0 and age < lost))
end

-- Revoked comes first: no grace, no lifetime and no generation may speak for a session that was ended.
local function verdict(s, mark, now)
  if s.created <= mark or s.ended ~= 0 then return 'revoked' end
  if now >= s.absolute or now >= s.idle then return 'expired' end
  return 'live'
end
