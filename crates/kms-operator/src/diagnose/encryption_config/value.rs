//! Content of a file in the data model of JSON, because kube-apiserver decodes only JSON.

use std::fmt;

use zeroize::Zeroizing;

/// A value with its position. The value of an alias has the position of the anchor.
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
    /// A number, with its value if it is a signed 32-bit integer.
    Number(Option<i32>),
    Text(Zeroizing<String>),
    List(Vec<Node>),
    /// Entries in file order, including repeated keys.
    Map(Vec<(Key, Node)>),
}

/// A key of a map.
#[derive(Clone)]
pub(super) struct Key {
    pub(super) at: Option<At>,
    /// `None` for a number or a boolean. The format has no such keys.
    pub(super) name: Option<Zeroizing<String>>,
}

/// Reason for rejecting a file before its rules are checked, without content of the file.
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
