//! The packet filter against a real kernel, in network namespaces of its own.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails by panicking")]

mod answers;
mod driver;
mod lab;
mod packets;
mod probe;
mod world;
