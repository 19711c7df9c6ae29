//! Snapshots of a real etcd, intact and damaged.

#![expect(
    clippy::unwrap_used,
    reason = "functions that only tests call may fail like tests"
)]

mod damage;
mod history;
mod reading;
