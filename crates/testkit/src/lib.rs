//! What tests need: a scripted OpenBao for answers that a real one cannot be made to give.

pub mod fake;
