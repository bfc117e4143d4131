//! Policies with real agents: the truth tables of `testbed/policies` asked with packets, agents that are killed meanwhile,
//! and what the API and people are told.

#![allow(clippy::unwrap_used, reason = "a test ends where its helpers fail")]

mod api;
#[path = "../../policies/cases.rs"]
mod cases;
mod cluster;
mod life;
#[path = "../../../felix/tests/acl/probe.rs"]
#[allow(dead_code, reason = "shared with the tests of felix")]
mod probe;
mod restart;
mod status;
mod tables;
