-- Polls of generations, one after another of a list, for wrk:
--	wrk -c 64 -t 2 -d 10 -s bench/hub-get.lua URL -- KEY FILE
-- FILE has one id a line. Prints what was answered other than 200.
local threads = {}

function setup(thread)
	thread:set("number", #threads + 1)
	table.insert(threads, thread)
end

function init(args)
	requests, at, other = {}, 0, 0
	local headers = {["Authorization"] = "Bearer " .. args[1]}
	for id in io.lines(args[2]) do
		table.insert(requests, wrk.format("GET", "/api/v1/generations/" .. id, headers))
	end
	-- Each thread begins elsewhere.
	at = (number - 1) * math.floor(#requests / 2)
end

function request()
	at = at % #requests + 1
	return requests[at]
end

function response(status)
	if status ~= 200 then
		other = other + 1
	end
end

function done(summary, latency)
	local failed = summary.errors.connect + summary.errors.read + summary.errors.write +
		summary.errors.timeout
	for _, thread in ipairs(threads) do
		failed = failed + thread:get("other")
	end
	print(string.format("rate %.0f /s, %d answers, %d not 200 or lost, p50 %.2f ms, p99 %.2f ms",
		summary.requests / (summary.duration / 1e6), summary.requests, failed,
		latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
