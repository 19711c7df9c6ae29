//! Closed connections of the KMS socket, by reason.

/// Why the provider closed a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Eviction {
    /// The connection limit was reached, and this connection had no running call.
    Full,
    /// The limit for bytes of unanswered requests was reached, and this connection held most of
    /// them.
    Memory,
    /// The HTTP/2 preface was late.
    Preface,
}

impl Eviction {
    pub const ALL: [Self; 3] = [Self::Full, Self::Memory, Self::Preface];

    /// The bounded word in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Memory => "memory",
            Self::Preface => "preface",
        }
    }
}
