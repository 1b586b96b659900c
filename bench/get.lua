-- One generation after another of those whose ids are in $BENCH_IDS, a line each.
local ids = {}
for line in io.lines(os.getenv("BENCH_IDS")) do ids[#ids + 1] = line end
local n = 0

function request()
   n = n % #ids + 1
   return wrk.format("GET", "/api/v1/generations/" .. ids[n])
end
