//! The client against a real OpenBao: that its answers are still what the classes rest on.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod batch;
mod corner;
mod jwt;
mod seal;
mod transit;
mod trust;
