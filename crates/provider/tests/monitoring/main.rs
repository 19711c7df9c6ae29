//! What is delivered to watch the provider with: the alert rules, tried by `promtool` on series that
//! fire and series that do not, and the dashboard. Every metric in a query is one that the
//! documentation lists, and a real provider exports exactly those (see the tests with OpenBao).

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "functions that only tests call may fail like tests"
)]

mod cases;
mod dashboard;
mod promtool;
mod queries;
mod rules;
