//! The client against a real OpenBao: checks the assumptions of the failure classes.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod batch;
mod corner;
mod jwt;
mod seal;
mod transit;
mod trust;
