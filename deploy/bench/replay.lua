-- Sends the requests of a file with wrk; see load.py for its shape and for what the arguments mean.
-- Arguments: file, order (cycle, once or chain), what every answer contains (nothing: unread), pause in ms
local threads = {}
local pending, position, head, tail = {}, 0, nil, nil

function setup(thread)
  threads[#threads + 1] = thread
end

function init(args)
  repeated, wrong, order, expect, pause = 0, 0, args[2], args[3], tonumber(args[4])
  local file = assert(io.open(args[1], 'rb'))
  local size = file:read('*n')
  while size do
    file:read(1)
    pending[#pending + 1] = file:read(size)
    size = file:read('*n')
  end
  file:close()
  if order == 'chain' then
    head, tail = pending[1]:match('^(.-)vrt_[%w_-]+(.*)$')
    request = successor
  end
  -- wrk takes the response apart only where these are defined.
  if order == 'chain' then response = chained elseif expect ~= '' then response = checked end
  if pause > 0 then delay = function() return pause end end
end

function request()
  position = position + 1
  if position > #pending then
    if order == 'once' then repeated = repeated + 1 end
    position = 1
  end
  return pending[position]
end

-- A thread has one chain of tokens for each connection and some to spare: none is sent while its answer is awaited.
function successor()
  position = position + 1
  local waiting = pending[position]
  if waiting == nil then
    repeated, position = repeated + 1, 1
    return pending[1]
  end
  pending[position] = false
  return waiting
end

function checked(status, headers, body)
  if not body:find(expect, 1, true) then wrong = wrong + 1 end
end

function chained(status, headers, body)
  local token = body:match('"refresh_token":"(vrt_[%w_-]+)"')
  if token == nil then
    wrong = wrong + 1
  else
    pending[#pending + 1] = head .. token .. tail
  end
end

function done(summary, latency)
  local again, bad = 0, 0
  for _, thread in ipairs(threads) do
    again, bad = again + thread:get('repeated'), bad + thread:get('wrong')
  end
  local errors = summary.errors
  local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
  io.write(string.format(
    '{"requests":%d,"seconds":%f,"bytes":%d,"p50":%f,"p99":%f,"failed":%d,"wrong":%d,"repeated":%d}\n',
    summary.requests, summary.duration / 1e6, summary.bytes, latency:percentile(50) / 1000,
    latency:percentile(99) / 1000, failed, bad, again))
end
