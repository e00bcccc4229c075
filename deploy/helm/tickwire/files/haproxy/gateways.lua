-- What haproxy.cfg asks of its own servers.

-- How long a request waits for the first gateway, and how often it looks, in milliseconds.
local WAIT, PAUSE = 3000, 50

-- The name of the server of this backend with this address, or an empty text if there is none. haproxy.cfg looks up the
-- name of a gateway in DNS, and connects only to what is one of the gateways that it knows: whatever the DNS server
-- answers, a client cannot make HAProxy connect to another host.
core.register_converters("gateway_at", function(address, backend)
    for name, server in pairs(core.backends[backend].servers) do
        local is_it = server:get_addr():match("^(.*):%d+$") == address
        -- A server that was removed keeps its last address.
        if is_it and server:get_stats().status:match("^UP") then
            return name
        end
    end
    return ""
end)

-- Waits until a gateway takes connections. There is none at first, until DNS has answered: this keeps clients that
-- connect during a reload from being refused.
core.register_action("wait_for_gateways", { "http-req" }, function(txn)
    for _ = 1, WAIT / PAUSE do
        if txn.f:nbsrv("unready") > 0 then
            return
        end
        core.msleep(PAUSE)
    end
end)
