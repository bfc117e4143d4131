//! Registry numbers, each with its registry and RFC.

/// TCP port of BGP: <https://www.iana.org/assignments/service-names-port-numbers>, RFC 4271.
pub const BGP_PORT: u16 = 179;
