-- Finds the server of a backend that has an address. haproxy.cfg looks up the name of a gateway in DNS, and connects
-- only to what is one of the gateways that it knows: whatever the DNS server answers, a client cannot make HAProxy
-- connect to another host.

-- The name of the server of this backend with this address, or an empty text if there is none.
core.register_converters("gateway_at", function(address, backend)
    for name, server in pairs(core.backends[backend].servers) do
        local ip = server:get_addr():match("^(.*):%d+$")
        if ip == address then
            return name
        end
    end
    return ""
end)
