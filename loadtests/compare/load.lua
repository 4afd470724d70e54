-- The closed-loop client's script for wrk: the request is the file that the first argument names, byte for byte, and
-- the last line of the output is a JSON object of what came of it (client.py reads it). Where the file has sixteen @ in a
-- row each request has another number.

local bytes, varied
local number = 0

function init(args)
  local file = assert(io.open(args[1], "rb"))
  bytes = file:read("*a")
  file:close()
  varied = bytes:find("@@@@@@@@@@@@@@@@", 1, true) ~= nil
end

function request()
  if not varied then return bytes end
  number = number + 1
  return (bytes:gsub("@@@@@@@@@@@@@@@@", string.format("%016x", number)))
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '{"answered": %d, "duration_us": %d, "errors": %d, "p50_us": %d, "p99_us": %d}\n',
    summary.requests, summary.duration,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout,
    latency:percentile(50), latency:percentile(99)))
end
