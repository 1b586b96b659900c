-- Orders, each with a prompt of its own. The key comes with wrk's -H.
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
local n = 0
local me = tostring({}):sub(8) -- differs between threads

function request()
   n = n + 1
   return wrk.format(nil, nil, nil, string.format(
      '{"model":"gpt-image-2","prompt":"a lighthouse at dusk, %s %d","size":"1024x1024","async":true}', me, n))
end
