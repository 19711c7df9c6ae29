//! The content of an object. Texts are borrowed from its plaintext where possible, so that few copies
//! have to be wiped.

use std::fmt;

use base64::{Engine as _, display::Base64Display, engine::general_purpose::STANDARD};
use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, SeqAccess, Visitor},
};
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

impl<'a> Node<'a> {
    /// Parses JSON.
    ///
    /// # Errors
    /// Invalid JSON, or deeper than 128 levels. The error quotes no content.
    pub(super) fn parse(json: &'a [u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(json)
    }

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
    #[must_use]
    pub(super) fn equals(&self, other: &Node<'_>) -> bool {
        match (self, other) {
            (Self::Null, Node::Null) => true,
            (Self::Bool(one), Node::Bool(two)) => one == two,
            (Self::List(one), Node::List(two)) => {
                one.len() == two.len() && one.iter().zip(two).all(|(one, two)| one.equals(two))
            }
            (Self::Map(one), Node::Map(two)) => {
                let same = |(name, value): &(Name<'_>, Node<'_>)| {
                    let found = other.get(name.as_str());
                    found.is_some_and(|found| value.equals(found))
                };
                one.len() == two.len() && one.iter().all(same)
            }
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

    fn number(&self) -> Option<String> {
        match self {
            Self::Int(number) => Some(number.to_string()),
            Self::Uint(number) => Some(number.to_string()),
            Self::Float(number) => Some(number.to_string()),
            _ => None,
        }
    }

    fn base64_or_text(&self) -> Option<Zeroizing<String>> {
        match self {
            Self::Bytes(bytes) => {
                let mut text = Zeroizing::new(String::with_capacity(bytes.len().div_ceil(3) * 4));
                STANDARD.encode_string(bytes, &mut text);
                Some(text)
            }
            _ => self.text().map(|text| Zeroizing::new(text.to_owned())),
        }
    }
}

/// Bytes in Base64, as they are displayed.
pub(super) fn base64(bytes: &[u8]) -> Base64Display<'_, '_, impl base64::Engine> {
    Base64Display::new(bytes, &STANDARD)
}

impl<'de: 'a, 'a> Deserialize<'de> for Node<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Name<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match deserializer.deserialize_str(NodeVisitor)? {
            Node::Text(name) => Ok(Self::Borrowed(name)),
            Node::Owned(name) => Ok(Self::Owned(name)),
            _ => Err(D::Error::custom("the name of a member is no text")),
        }
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Node::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(Node::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
        Ok(Node::Int(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
        Ok(Node::Uint(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Self::Value, E> {
        Ok(Node::Float(value))
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Node::Text(text))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Node::Owned(Zeroizing::new(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Node::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        let mut members = Members::new();
        while let Some(entry) = entries.next_entry()? {
            members.push(entry);
        }
        Ok(Node::Map(members))
    }
}
