-- Pauses before every request. wrk ... -s pace.lua URL -- MS makes pauses of 0 to 2 MS milliseconds, so that connections
-- that began together do not go on together.
local mean = 0

function init(args)
   mean = tonumber(args[1])
   math.randomseed(os.time())
end

function delay()
   return math.floor(2 * mean * math.random() + 0.5)
end
