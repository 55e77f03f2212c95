-- Prints the result as JSON. With a run name as argument, also gives every request an x-truth-id of its own:
-- RUN-THREAD-COUNTER. Without one no Lua runs while wrk sends. wrk ... -s wrk.lua URL -- [RUN [N [VARIED [MS]]]]: a
-- connection ends after each request with a probability of 1/N (0: never), VARIED true is one of 1,000 targets for each; after MS
-- milliseconds no request begins.
local threads = 0

function setup(thread)
  threads = threads + 1
  thread:set("number", threads)
end

function init(args)
  local run = args[1]
  if not run or run == "" then return end
  local varied = args[3] == "true"
  local count, prefix = 0, run .. "-" .. number .. "-"
  local path, query = wrk.path:match("^([^?]*)(.*)$")
  local headers = { ["x-truth-id"] = "" }
  local per_connection = tonumber(args[2] or 0)
  request = function()
    if per_connection > 0 then headers["Connection"] = math.random(per_connection) == 1 and "close" or nil end
    count = count + 1
    headers["x-truth-id"] = prefix .. count
    return wrk.format("GET", varied and path .. math.random(1000) .. query or wrk.path, headers)
  end
  if args[4] then stop_after(tonumber(args[4])) end
end

-- stop_after has connections wait, before a request, for longer than wrk runs, once the time is over.
function stop_after(ms)
  local ffi = require("ffi")
  ffi.cdef "struct timeval { long sec, usec; }; int gettimeofday(struct timeval *, void *);"
  local time = ffi.new("struct timeval")
  local now = function()
    ffi.C.gettimeofday(time, nil)
    return tonumber(time.sec) * 1000 + tonumber(time.usec) / 1000
  end
  local last, forever = now() + ms, 3600 * 1000
  delay = function() return now() < last and 0 or forever end
end

function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '\n{"requests":%d,"duration_us":%d,"bytes":%d,"connect":%d,"read":%d,"write":%d,"status":%d,"timeout":%d,' ..
    '"mean_us":%.1f,"p50_us":%d,"p90_us":%d,"p99_us":%d,"p999_us":%d,"max_us":%d}\n',
    summary.requests, summary.duration, summary.bytes, e.connect, e.read, e.write, e.status, e.timeout,
    latency.mean, latency:percentile(50), latency:percentile(90), latency:percentile(99), latency:percentile(99.9),
    latency.max))
end
