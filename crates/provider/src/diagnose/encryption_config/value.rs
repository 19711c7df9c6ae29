//! The content of a file as JSON can express it, which is all that kube-apiserver decodes.

use std::fmt;

use zeroize::Zeroizing;

/// A value with its place. A value that an alias stands for has the place of its anchor.
#[derive(Clone)]
pub(super) struct Node {
    /// `None` in a JSON file.
    pub(super) at: Option<At>,
    pub(super) value: Value,
}

/// Line and column, both from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct At {
    pub(super) line: u64,
    pub(super) column: u64,
}

#[derive(Clone)]
pub(super) enum Value {
    Null,
    Bool,
    /// A number; with its value if it is one of 32 bits with sign.
    Number(Option<i32>),
    Text(Zeroizing<String>),
    List(Vec<Node>),
    /// Keys in their order, repeated ones included.
    Map(Vec<(Key, Node)>),
}

/// A key of a map.
#[derive(Clone)]
pub(super) struct Key {
    pub(super) at: Option<At>,
    /// `None` for a number or a boolean, since no format that is read here has such a key.
    pub(super) name: Option<Zeroizing<String>>,
}

/// The reason why a file is refused before its rules are checked. The content of the file is not
/// repeated.
#[derive(Debug)]
pub(super) struct Malformed {
    at: Option<At>,
    rule: String,
}

impl Malformed {
    pub(super) fn new(at: Option<At>, rule: impl Into<String>) -> Self {
        Self {
            at,
            rule: rule.into(),
        }
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(At { line, column }) = self.at {
            write!(f, "line {line}, column {column}: ")?;
        }
        f.write_str(&self.rule)
    }
}
