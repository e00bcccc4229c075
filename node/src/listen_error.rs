//! Says what to do if a server cannot listen on the address of its configuration.

use std::io::{Error, ErrorKind};

/// What to do about the error of a system that does not let a server listen.
pub fn advice(error: &Error) -> &'static str {
    match error.kind() {
        ErrorKind::AddrInUse => "another program, or another node, uses it: stop that one, or set another port",
        ErrorKind::AddrNotAvailable => {
            "this machine does not have this address: set one that it has, or 0.0.0.0 for all"
        }
        ErrorKind::PermissionDenied => "the user of this process may not use this port: set one from 1024 on",
        _ => "set another address",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn address_of_another_machine_is_told_from_a_port_in_use() {
        let used = TcpListener::bind("127.0.0.1:0").unwrap();
        let table = [(used.local_addr().unwrap(), "uses it"), ("192.0.2.1:0".parse().unwrap(), "does not have")];
        for (address, wanted) in table {
            let error = TcpListener::bind(address).unwrap_err();
            assert!(advice(&error).contains(wanted), "{error}");
        }
    }
}
