//! The state store on a real file system: what it accepts, what it refuses without touching it,
//! and what a crash or a failing disk leaves behind.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "functions that only tests call may fail like tests"
)]

mod commit;
mod committer;
mod crash;
mod day;
mod lock;
mod node;
mod reading;
mod rebuild;
mod reviewed;
