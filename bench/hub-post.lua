-- Asynchronous orders, each with a prompt of its own, for wrk:
--	wrk -c 64 -t 2 -d 10 -s bench/hub-post.lua URL -- KEY
-- Prints what was answered other than 202.
local threads = {}

function setup(thread)
	thread:set("number", #threads + 1)
	table.insert(threads, thread)
end

function init(args)
	sent, other = 0, 0
	salt = os.time()
	headers = {
		["Authorization"] = "Bearer " .. args[1],
		["Content-Type"] = "application/json",
	}
end

function request()
	sent = sent + 1
	return wrk.format("POST", "/api/v1/images/generations", headers, string.format(
		'{"model":"gpt-image-2","prompt":"a cat, %d of thread %d at %d","size":"1024x640",' ..
		'"n":1,"async":true}', sent, number, salt))
end

function response(status)
	if status ~= 202 then
		other = other + 1
	end
end

function done(summary, latency)
	local failed = summary.errors.connect + summary.errors.read + summary.errors.write +
		summary.errors.timeout
	for _, thread in ipairs(threads) do
		failed = failed + thread:get("other")
	end
	print(string.format("rate %.0f /s, %d answers, %d not 202 or lost, p50 %.2f ms, p99 %.2f ms",
		summary.requests / (summary.duration / 1e6), summary.requests, failed,
		latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
