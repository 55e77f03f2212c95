-- Prints the result as JSON. With a run name as argument, also gives every request an x-truth-id of its own:
-- RUN-THREAD-COUNTER; and with "churn" after it a connection of its own. Without one no Lua runs while wrk sends.
local threads = 0

function setup(thread)
  threads = threads + 1
  thread:set("number", threads)
end

function init(args)
  local run = args[1]
  if not run or run == "" then return end
  local path, count, prefix = wrk.path, 0, run .. "-" .. number .. "-"
  local headers = { ["x-truth-id"] = "" }
  if args[2] == "churn" then headers["Connection"] = "close" end
  request = function()
    count = count + 1
    headers["x-truth-id"] = prefix .. count
    return wrk.format("GET", path, headers)
  end
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
