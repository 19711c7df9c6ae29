//! Telemetry of the provider: log lines, metrics, and the health endpoints.

pub mod accept;
pub mod correlation;
pub mod endpoints;
pub mod eviction;
pub mod health;
pub mod hooks;
pub mod jwt_life;
pub mod log;
pub mod metrics;
pub mod process;
pub mod readings;
