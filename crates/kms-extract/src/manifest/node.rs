//! The content of an object. Texts are borrowed from its plaintext where possible, so that few copies
//! have to be wiped.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

/// A value as JSON has it.
#[derive(Clone)]
pub(super) enum Node<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Float(f64),
    Text(&'a str),
    /// A text with escapes, or a formatted one.
    Owned(Zeroizing<String>),
    /// Bytes, in Base64.
    Bytes(&'a [u8]),
    List(Vec<Self>),
    Map(Members<'a>),
}

/// Names and values of a map, in their order.
pub(super) type Members<'a> = Vec<(Name<'a>, Node<'a>)>;

/// The name of a member.
#[derive(Clone)]
pub(super) enum Name<'a> {
    Borrowed(&'a str),
    Owned(Zeroizing<String>),
}

impl Name<'_> {
    pub(super) fn as_str(&self) -> &str {
        match self {
            Self::Borrowed(name) => name,
            Self::Owned(name) => name,
        }
    }
}

/// No content of an object is ever printed by accident.
impl fmt::Debug for Node<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Node(..)")
    }
}

/// Values that are the same as an absent member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Empty {
    Null,
    /// Also lists without an item.
    Lists,
}

impl Empty {
    fn has(self, node: &Node<'_>) -> bool {
        match node {
            Node::Null => true,
            Node::List(items) => items.is_empty() && self == Self::Lists,
            _ => false,
        }
    }
}

/// Whether both maps have the same members, in any order.
pub(super) fn same_members(one: &Members<'_>, two: &Members<'_>, empty: Empty) -> bool {
    let present = |(_, value): &&(Name<'_>, Node<'_>)| !empty.has(value);
    let same = |(name, value): &(Name<'_>, Node<'_>)| {
        let mut others = two.iter().filter(present);
        others.any(|(other, found)| other.as_str() == name.as_str() && value.equals(found, empty))
    };
    one.iter().filter(present).count() == two.iter().filter(present).count()
        && one.iter().filter(present).all(same)
}

impl<'a> Node<'a> {
    /// The text of a string.
    #[must_use]
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Owned(text) => Some(text),
            _ => None,
        }
    }

    /// The members of a map.
    #[must_use]
    pub(super) fn members(&self) -> Option<&Members<'a>> {
        match self {
            Self::Map(members) => Some(members),
            _ => None,
        }
    }

    /// A member of a map.
    #[must_use]
    pub(super) fn get(&self, name: &str) -> Option<&Self> {
        let mut members = self.members()?.iter();
        members
            .find(|(member, _)| member.as_str() == name)
            .map(|(_, value)| value)
    }

    /// Size in memory, about: the texts, and some bytes for each value.
    #[must_use]
    pub(super) fn size(&self) -> usize {
        const VALUE: usize = 32;
        let content = match self {
            Self::Null | Self::Bool(_) | Self::Int(_) | Self::Uint(_) | Self::Float(_) => 0,
            Self::Text(text) => text.len(),
            Self::Owned(text) => text.len(),
            Self::Bytes(bytes) => bytes.len(),
            Self::List(items) => items.iter().map(Self::size).sum(),
            Self::Map(members) => members
                .iter()
                .map(|(name, value)| name.as_str().len().saturating_add(value.size()))
                .sum(),
        };
        content.saturating_add(VALUE)
    }

    /// Whether Go's JSON omits it as empty.
    #[must_use]
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::Null | Self::Bool(false) | Self::Int(0) | Self::Uint(0) => true,
            Self::Float(number) => *number == 0.0,
            Self::Bytes(bytes) => bytes.is_empty(),
            Self::List(list) => list.is_empty(),
            Self::Map(members) => members.is_empty(),
            Self::Bool(true) | Self::Int(_) | Self::Uint(_) => false,
            Self::Text(_) | Self::Owned(_) => self.text() == Some(""),
        }
    }

    /// Whether both are the same JSON; the order of members counts nothing.
    pub(super) fn equals(&self, other: &Node<'_>, empty: Empty) -> bool {
        match (self, other) {
            (Self::Null, Node::Null) => true,
            (Self::Bool(one), Node::Bool(two)) => one == two,
            (Self::List(one), Node::List(two)) => {
                let mut pairs = one.iter().zip(two);
                one.len() == two.len() && pairs.all(|(one, two)| one.equals(two, empty))
            }
            (Self::Map(one), Node::Map(two)) => same_members(one, two, empty),
            _ => match (self.number(), other.number()) {
                (Some(one), Some(two)) => one == two,
                (None, None) => self
                    .base64_or_text()
                    .zip(other.base64_or_text())
                    .is_some_and(|(one, two)| one == two),
                _ => false,
            },
        }
    }

    fn number(&self) -> Option<Zeroizing<String>> {
        let text = match self {
            Self::Int(number) => number.to_string(),
            Self::Uint(number) => number.to_string(),
            Self::Float(number) => number.to_string(),
            _ => return None,
        };
        Some(Zeroizing::new(text))
    }

    fn base64_or_text(&self) -> Option<Zeroizing<String>> {
        match self {
            Self::Bytes(bytes) => Some(base64(bytes)),
            _ => self.text().map(|text| Zeroizing::new(text.to_owned())),
        }
    }
}

pub(super) fn base64(bytes: &[u8]) -> Zeroizing<String> {
    Zeroizing::new(STANDARD.encode(bytes))
}
